package dev.acme;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DropoutMask;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.model.TaskType;
import dev.loran.peft.tuner.Attachment;
import dev.loran.peft.tuner.ConfigJson;
import dev.loran.peft.tuner.Heads;
import dev.loran.peft.tuner.Merge;
import dev.loran.peft.tuner.Mergeable;
import dev.loran.peft.tuner.PeftConfig;
import dev.loran.peft.tuner.Targets;
import dev.loran.peft.tuner.Tuner;
import java.util.List;
import java.util.function.BiConsumer;
import org.jspecify.annotations.Nullable;

/// A method as a user of the library could write it: scales the outputs of linear layers, with dropout on their inputs
/// in training.
record ScaleConfig(
        Targets targetModules,
        double dropout,
        List<String> modulesToSave,
        @Nullable TaskType taskType) implements PeftConfig {
    static final String TYPE = "SCALE";

    static ScaleConfig defaults() {
        return new ScaleConfig(Targets.modelDefault(), 0, List.of(), null);
    }

    static ScaleConfig read(ConfigJson json) {
        json.bool("inference_mode", false);
        return new ScaleConfig(
                json.targets("target_modules"),
                json.number("dropout", 0),
                json.strings("modules_to_save"),
                json.taskType());
    }

    @Override
    public String peftType() {
        return TYPE;
    }

    @Override
    public boolean inferenceMode() {
        return false;
    }

    @Override
    public Tuner attach(Attachment to) {
        Heads heads = Heads.of(modulesToSave, taskType);
        Targets targets = targetModules.or(to.model(), TYPE);
        Tuner tuner = new Tuner(new ScaleConfig(targets, dropout, heads.names(), taskType), to);
        int[] site = {0};
        targets.resolve("target_modules", to, Targets.Limits.besides(heads))
                .forEach((name, layer) ->
                        tuner.place(name, (Linear) layer, new Scale((Linear) layer, dropout, to, site[0]++)));
        heads.place(tuner);
        return tuner;
    }

    private static final class Scale implements Mergeable<Linear> {
        private final String name;
        private final Tensor scale;
        private final @Nullable DropoutMask mask;

        Scale(Linear base, double dropout, Attachment to, int site) {
            name = "scale." + to.name();
            scale = Tensor.full(to.backend(), base.weight().dtype().accumulator(), 1, base.outFeatures())
                    .detachFromScope();
            mask = to.dropout(dropout, site);
        }

        @Override
        public Tensor forward(Linear base, Tensor x) {
            Tensor in = mask != null && base.isTraining() ? Functional.dropout(x, mask) : x;
            return base.base(in).mul(Functional.cast(scale, x.dtype()));
        }

        @Override
        public void merge(Linear base, Merge merge) {
            Tensor s = Merge.wide(scale);
            merge.put(base.weight(), merge.value(base.weight()).mul(s.reshape(-1, 1)));
            if (base.bias() != null) {
                merge.put(base.bias(), merge.value(base.bias()).mul(s));
            }
        }

        @Override
        public void collect(BiConsumer<String, Tensor> visitor) {
            visitor.accept(name, scale);
        }

        @Override
        public void close() {
            scale.close();
        }
    }
}
