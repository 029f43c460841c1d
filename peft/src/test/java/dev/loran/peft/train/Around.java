package dev.loran.peft.train;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.optim.Optimizer;
import dev.loran.peft.data.Batch;
import dev.loran.peft.model.Guard;
import dev.loran.peft.task.Task;
import java.nio.file.Path;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/// Trains a model in the way it trains itself, except for what a test overrides. Its steps are never recorded.
class Around implements Learner {
    private final TaskModel model;

    Around(TaskModel model) {
        this.model = model;
    }

    @Override
    public Task task() {
        return model.task();
    }

    @Override
    public Backend backend() {
        return model.backend();
    }

    @Override
    public DType dtype() {
        return model.dtype();
    }

    @Override
    public Map<String, Tensor> parameters() {
        return model.parameters();
    }

    @Override
    public boolean isHead(String name) {
        return model.isHead(name);
    }

    @Override
    public Tensor loss(Batch batch) {
        return model.loss(batch);
    }

    @Override
    public Tensor logits(Batch batch) {
        return model.logits(batch);
    }

    @Override
    public @Nullable Tensor penalty() {
        return model.penalty();
    }

    @Override
    public Guard.Use changing(String operation) {
        return model.changing(operation);
    }

    @Override
    public void train(boolean mode) {
        model.train(mode);
    }

    @Override
    public void microStep(int number) {
        model.microStep(number);
    }

    @Override
    public void beginTraining(int totalSteps) {
        model.beginTraining(totalSteps);
    }

    @Override
    public void afterStep(int step, Buffer gradScale, Optimizer optimizer) {
        model.afterStep(step, gradScale, optimizer);
    }

    @Override
    public ObjectNode identity() {
        return model.identity();
    }

    @Override
    public void save(Path folder) {
        model.save(folder);
    }
}
