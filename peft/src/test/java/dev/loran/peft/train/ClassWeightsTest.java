package dev.loran.peft.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.testing.GradCheck;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.Target;
import dev.loran.peft.data.TinyTokenizers;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Losses;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.ClassWeights;
import dev.loran.peft.task.ClassifyTask;
import dev.loran.peft.task.Evaluation;
import dev.loran.peft.task.RegressTask;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftModel;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;

class ClassWeightsTest {
    private static final Labels LABELS = new Labels(List.of("a", "b", "c"));

    private static Examples examples(List<? extends Row> rows) {
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            return Examples.of(new ClassifyTask(), rows, tokenizer, Examples.Options.of(Tiny.POSITIONS), null);
        }
    }

    private static Examples single(String... labels) {
        return examples(IntStream.range(0, labels.length)
                .mapToObj(i -> new Row.Classify("red ".repeat(1 + i), labels[i]))
                .toList());
    }

    private static Examples lists() {
        return examples(List.of(
                new Row.Labelled("red", null, List.of("a")),
                new Row.Labelled("red buy", null, List.of("c")),
                new Row.Labelled("red red", null, List.of("a", "b")),
                new Row.Labelled("buy", null, List.of())));
    }

    private static double[] weights(Examples rows) {
        return Objects.requireNonNull(rows.labels().weights());
    }

    private static List<Batch> batches(Examples rows, int size) {
        return new DataLoader(rows, new DataLoader.Options(size, false, 0, false, false, 1)).epoch(0);
    }

    /// (4, 3), as the oracle's script made them.
    private static Tensor logits(ReferenceBackend backend) {
        double[] x =
                IntStream.range(0, 12).mapToDouble(i -> 3 * Math.sin(1.7 * i)).toArray();
        return Tensor.of(backend, DType.F64, x, 4, 3).requiresGrad(true);
    }

    private static Tensor floats(ReferenceBackend backend, Target target) {
        Target.Floats floats = (Target.Floats) target;
        double[] wide = new double[floats.values().length];
        for (int i = 0; i < wide.length; i++) {
            wide[i] = floats.values()[i];
        }
        return Tensor.of(backend, DType.F64, wide, floats.dims());
    }

    /// The figures are those of torch 2 in F64: `CrossEntropyLoss(weight)`, `BCEWithLogitsLoss(pos_weight)`.
    @Test
    void theLossesAreThoseOfTorch() {
        String given = "a=0.5,b=3, c=1.25";
        try (ReferenceBackend backend = new ReferenceBackend();
                Scope scope = Scope.open()) {
            Tensor x = logits(backend);
            Batch one = batches(ClassWeights.of(given, single("a", "c", "a", "b")), 4)
                    .getFirst();
            assertThat(one.lossTerms()).isEqualTo(0.5 + 1.25 + 0.5 + 3);
            Tensor shares = floats(backend, one.targets().get(1));
            assertThat(Losses.weightedCrossEntropy(x, shares).item()).isCloseTo(3.2568068354206523, within(1e-6));
            GradCheck.check("weighted", Map.of("x", x), () -> Losses.weightedCrossEntropy(x, shares));

            Batch any = batches(ClassWeights.of(given, lists()), 4).getFirst();
            assertThat(any.lossTerms()).isEqualTo(4);
            Tensor hot = floats(backend, any.targets().get(0));
            Tensor factors = floats(backend, any.targets().get(1));
            assertThat(Losses.weightedBinaryCrossEntropy(x, hot, factors).item())
                    .isCloseTo(1.4476424366012577, within(1e-6));
            GradCheck.check("weighted", Map.of("x", x), () -> Losses.weightedBinaryCrossEntropy(x, hot, factors));
        }
    }

    /// Where exp overflows, or all that is left of 1 + exp is 1.
    @Test
    void largeLogitsOverflowNothing() {
        try (ReferenceBackend backend = new ReferenceBackend();
                Scope scope = Scope.open()) {
            Tensor x = Tensor.of(backend, DType.F32, new double[] {900, -900, 0}, 1, 3);
            Tensor second = Tensor.of(backend, DType.F32, new double[] {0, 1, 0}, 1, 3);
            Tensor factors = Tensor.of(backend, DType.F32, new double[] {1, 2, 1}, 1, 3);
            assertThat(Losses.weightedCrossEntropy(x, second).item()).isEqualTo(1800);
            assertThat(Losses.weightedBinaryCrossEntropy(x, second, factors).item())
                    .isCloseTo((900 + 2 * 900 + Math.log(2)) / 3, within(1e-3));
        }
    }

    /// As scikit-learn's `compute_class_weight("balanced")`.
    @Test
    void balancedWeightsComeFromTheCounts() {
        Examples rows = ClassWeights.of("balanced", single("a", "a", "a", "b", "a", "c", "c", "a"));
        assertThat(weights(rows)).containsExactly(new double[] {8 / 15.0, 8 / 3.0, 4 / 3.0}, within(1e-12));
        // Without a label / with it: 2 / 2, 3 / 1, 3 / 1.
        assertThat(weights(ClassWeights.of("balanced", lists()))).containsExactly(1, 3, 3);
        assertThat(weights(ClassWeights.of("c=4", lists()))).containsExactly(1, 1, 4);
    }

    @Test
    void badWeightsAreRefused() {
        Examples rows = single("a", "b", "c");
        for (String bad : List.of("b", "b=0", "b=-1", "b=x", "=2", "b=2,,c=1", "b=Infinity")) {
            assertThatThrownBy(() -> ClassWeights.of(bad, rows))
                    .isInstanceOf(InputException.class)
                    .hasMessageContaining("is no label with a positive number; write balanced, or label=2,other=0.5");
        }
        assertThatThrownBy(() -> ClassWeights.of("d=2", rows))
                .isInstanceOf(InputException.class)
                .hasMessageContaining("label \"d\" is not one of the 3 labels of the model: a, b, c");
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            Examples numbers = Examples.of(
                    new RegressTask(),
                    List.of(new Row.Scored("red", null, 1)),
                    tokenizer,
                    Examples.Options.of(8),
                    null);
            assertThatThrownBy(() -> ClassWeights.of("balanced", numbers))
                    .isInstanceOf(InputException.class)
                    .hasMessage("class weights are for task classify, not for task regress; leave them out");
        }
    }

    /// A part of a step weighs as much as the classes in it.
    @Test
    void microBatchesEqualOneBatchOfAllTheirRows() {
        String[] labels = {"a", "b", "a", "a", "c", "a", "b", "a", "c", "a", "a"};
        Examples rows = ClassWeights.of("a=0.5,b=3,c=1.25", single(labels));
        List<List<Double>> values = new ArrayList<>();
        List<Double> losses = new ArrayList<>();
        for (int size : new int[] {11, 4, 1}) {
            try (ReferenceBackend backend = new ReferenceBackend();
                    Model base = Tiny.encoder(backend, DType.F64);
                    PeftModel peft = new PeftModel(base, 7)) {
                peft.addAdapter("default", LoraConfig.defaults().withDropout(0));
                TaskCard card = TaskCard.classify(rows.labels(), Tiny.POSITIONS);
                assertThat(card.toJson().get("class_weights")).hasSize(3);
                try (TaskModel model = TaskModel.of(peft, card, 1);
                        Trainer trainer = new Trainer(
                                model, TrainerConfig.defaults().withSteps(3).withRate(TrainerConfig.Rate.of(1e-3)))) {
                    for (int i = 0; i < 3; i++) {
                        losses.add(trainer.trainStep(batches(rows, size)).loss());
                    }
                    List<Double> all = new ArrayList<>();
                    model.parameters().values().forEach(t -> {
                        for (double x : t.toDoubles()) {
                            all.add(x);
                        }
                    });
                    values.add(all);
                    // The loss of an evaluation has no weights.
                    Evaluation e = Evaluation.of(model, rows, 4);
                    assertThat(e.loss())
                            .isEqualTo(
                                    Evaluation.of(model, rows.with(LABELS), 4).loss());
                }
            }
        }
        for (int other = 1; other < 3; other++) {
            for (int i = 0; i < values.getFirst().size(); i++) {
                assertThat(values.get(other).get(i)).isCloseTo(values.getFirst().get(i), within(1e-6));
            }
            for (int i = 0; i < 3; i++) {
                assertThat(losses.get(3 * other + i)).isCloseTo(losses.get(i), within(1e-6));
            }
        }
    }
}
