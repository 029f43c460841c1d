package dev.loran.peft.tuner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.kernels.simd.SimdBackend;
import dev.loran.peft.Threads;
import dev.loran.peft.generation.Generation;
import dev.loran.peft.generation.GenerationConfig;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Guard;
import dev.loran.peft.model.KvCache;
import dev.loran.peft.model.Model;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.ConcurrentModificationException;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Consumer;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/// One PeftModel used by several threads: the same bits as from a single one, and a clear error where that is
/// impossible.
class SharedModelTest {
    private static final int THREADS = 4;
    private static final int CALLS = 8;
    /// Rounds of calls; more give a longer run.
    private static final int ROUNDS = Integer.getInteger("loran.rounds", 1);

    /// Regression test: four threads that set adapters on one model got outputs of each other's adapters. Each output
    /// must be right, or its call must fail.
    @ParameterizedTest
    @ValueSource(strings = {"llama", "bert"})
    void settingAdaptersFromSeveralThreadsNeverGivesTheAnswerOfAnotherAdapter(String family) {
        try (Backend backend = new SimdBackend(2);
                Subject subject = new Subject(family, backend, 4)) {
            List<String> names = subject.names();
            AtomicInteger answered = new AtomicInteger();
            AtomicInteger refused = new AtomicInteger();
            Threads.run(names.size(), thread -> {
                String mine = names.get(thread);
                // A refused call takes much less time than a successful one, so a refused thread tries again.
                for (int i = 0, right = 0; i < 2_000 && right < 10 * ROUNDS; i++) {
                    try {
                        subject.peft.setAdapter(mine);
                        assertThat(subject.logits()).isEqualTo(subject.alone.get(mine));
                        right++;
                        answered.incrementAndGet();
                    } catch (ConcurrentModificationException e) {
                        refused.incrementAndGet();
                    }
                }
            });
            assertThat(answered.get()).isPositive();
            report(family + ": setAdapter and logits", answered.get(), refused.get());
        }
    }

    private static void report(String what, int answered, int refused) {
        if (ROUNDS > 1) {
            System.out.printf("%s: %,d calls, %,d refused, 0 wrong%n", what, answered + refused, refused);
        }
    }

    /// The two calls belong together: a choice by another thread in between is detected.
    @Test
    void anAdapterThatAnotherThreadChoseDoesNotAnswer() {
        ReferenceBackend backend = new ReferenceBackend();
        try (Subject subject = new Subject("llama", backend, 2)) {
            PeftModel peft = subject.peft;
            peft.setAdapter("lora");
            Threads.run(1, thread -> {
                // A thread that has not chosen uses the present choice.
                assertThat(subject.logits()).isEqualTo(subject.alone.get("lora"));
                peft.setAdapter("lora everywhere");
                assertThat(subject.logits()).isEqualTo(subject.alone.get("lora everywhere"));
            });
            assertThatThrownBy(subject::logits)
                    .isInstanceOf(ConcurrentModificationException.class)
                    .hasMessageMatching("setAdapter: this thread chose adapters \\[lora\\], but thread \\S+ has chosen"
                            + " \\[lora everywhere\\] since; give each call its adapter by withAdapter, .*");
            assertThat(peft.withAdapter("lora", subject::logits)).isEqualTo(subject.alone.get("lora"));
            peft.setAdapter("lora");
            Threads.run(1, thread -> {
                try (PeftModel.Disabled disabled = peft.disableAdapter()) {
                    assertThat(subject.logits()).isNotEqualTo(subject.alone.get("lora"));
                }
            });
            assertThat(subject.logits()).isEqualTo(subject.alone.get("lora"));
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    @ParameterizedTest
    @ValueSource(strings = {"llama", "gpt2", "bert", "bert-head", "seo"})
    void everyThreadGetsTheAnswersOfItsOwnAdapter(String family) {
        try (Backend backend = new SimdBackend(2);
                Subject subject = new Subject(family, backend)) {
            List<String> names = subject.names();
            Threads.run(THREADS, thread -> {
                for (int i = 0; i < CALLS * ROUNDS; i++) {
                    String mine = names.get((thread * 5 + i) % names.size());
                    assertThat(subject.peft.withAdapter(mine, subject::logits))
                            .as(mine)
                            .isEqualTo(subject.alone.get(mine));
                }
            });
            assertThat(subject.peft.activeAdapters()).containsExactly(names.getFirst());
            report(family + ": withAdapter", THREADS * CALLS * ROUNDS, 0);
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"llama", "bert-head"})
    void rowsWithAdaptersOfTheirOwnMayBeAskedForByEveryThread(String family) {
        try (Backend backend = new SimdBackend(2);
                Subject subject = new Subject(family, backend)) {
            List<List<String>> batches = new ArrayList<>();
            List<double[]> alone = new ArrayList<>();
            for (int i = 0; i < THREADS; i++) {
                batches.add(List.of(subject.names().get(i), subject.names().get(2 * i + 1), PeftModel.BASE));
                alone.add(subject.mixed(batches.get(i)));
            }
            Threads.run(THREADS, thread -> {
                for (int i = 0; i < CALLS * ROUNDS; i++) {
                    int which = (thread + i) % THREADS;
                    assertThat(subject.mixed(batches.get(which))).isEqualTo(alone.get(which));
                    // In between, the active adapter gives the same output as before.
                    assertThat(subject.logits())
                            .isEqualTo(subject.alone.get(subject.names().getFirst()));
                }
            });
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"llama", "gpt2", "seo"})
    void everyThreadGeneratesWithACacheOfItsOwn(String family) {
        try (Backend backend = new SimdBackend(2);
                Subject subject =
                        new Subject(family, backend, List.of("lora", "dora", "houlsby", "prefix", "prompt"))) {
            int[][] prompts = {{3, 1, 4}, {1, 5}};
            GenerationConfig config = GenerationConfig.greedy(4);
            Map<String, List<String>> alone = new LinkedHashMap<>();
            for (String name : subject.names()) {
                subject.peft.setAdapter(name);
                alone.put(name, text(Generation.tokens(subject.model, prompts, config)));
            }
            String active = subject.peft.activeAdapter();
            Threads.run(4, thread -> {
                for (int i = 0; i < 5 * ROUNDS; i++) {
                    String mine = subject.names()
                            .get((3 * thread + i) % subject.names().size());
                    assertThat(text(subject.peft.withAdapter(
                                    mine, () -> Generation.tokens(subject.model, prompts, config))))
                            .as(mine)
                            .isEqualTo(alone.get(mine));
                    assertThat(text(Generation.tokens(subject.model, prompts, config)))
                            .isEqualTo(alone.get(active));
                }
            });
        }
    }

    private static List<String> text(List<int[]> tokens) {
        return tokens.stream().map(Arrays::toString).toList();
    }

    /// Lazily computed values are computed once, whichever thread needs them first.
    @ParameterizedTest
    @ValueSource(strings = {"llama", "bert"})
    void theFirstForwardsOfAModelMayBeThoseOfSeveralThreads(String family) {
        for (int round = 0; round < 4 * ROUNDS; round++) {
            ReferenceBackend backend = new ReferenceBackend();
            try (Subject subject = new Subject(family, backend, List.of("pissa", "dora", "lora and tokens"))) {
                // Raises the versions on which the adapters' cached values depend.
                subject.model.namedParameters().values().forEach(Tensor::markWritten);
                Threads.run(
                        4,
                        thread -> subject.names()
                                .forEach(name -> assertThat(subject.peft.withAdapter(name, subject::logits))
                                        .isEqualTo(subject.alone.get(name))));
            }
            assertThat(backend.liveBuffers()).isZero();
        }
    }

    @Test
    void whatChangesAModelFailsWhileItIsRead() {
        ReferenceBackend backend = new ReferenceBackend();
        try (Subject subject = new Subject("llama", backend, 2)) {
            PeftModel peft = subject.peft;
            Model model = subject.model;
            Map<String, Runnable> changes = new LinkedHashMap<>();
            changes.put("setAdapter", () -> peft.setAdapter("lora"));
            changes.put("addAdapter", () -> peft.addAdapter("new", LoraConfig.defaults()));
            changes.put("deleteAdapter", () -> peft.deleteAdapter("lora"));
            changes.put("disableAdapter", peft::disableAdapter);
            changes.put("mergeAdapter", peft::mergeAdapter);
            changes.put("mergeAndUnload", peft::mergeAndUnload);
            changes.put(
                    "addWeightedAdapter",
                    () -> peft.addWeightedAdapter("sum", List.of("lora"), List.of(1.0), Combination.linear()));
            changes.put("microStep", () -> peft.microStep(1));
            changes.put("gradientCheckpointing", () -> model.gradientCheckpointing(true));
            changes.put("train", () -> model.train(true));
            changes.put("prepare", model::prepare);
            changes.put("makeWritable", model::makeWritable);
            changes.put("close", peft::close);
            changes.forEach((name, change) -> {
                // During a read by this thread, first another thread tries, then this thread itself.
                peft.withAdapter("lora", () -> {
                    Threads.run(1, thread -> refused(change, name, "is being read (withAdapter lora)"));
                    refused(change, name, "is being read");
                    return true;
                });
                assertThat(subject.logits()).as(name).isEqualTo(subject.alone.get("lora"));
            });
            assertThat(peft.adapters()).containsOnlyKeys("lora", "lora everywhere");
            assertThat(model.isTraining()).isFalse();
            // The model is free again.
            changes.get("setAdapter").run();
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    @Test
    void whatReadsAModelFailsWhileItIsChanged() {
        ReferenceBackend backend = new ReferenceBackend();
        try (Subject subject = new Subject("bert-head", backend, 2)) {
            PeftModel peft = subject.peft;
            Map<String, Runnable> uses = new LinkedHashMap<>();
            uses.put("logits", subject::logits);
            uses.put("withAdapter lora", () -> peft.withAdapter("lora", () -> 1));
            uses.put("savePretrained", () -> peft.savePretrained(Path.of("never")));
            uses.put("setAdapter", () -> peft.setAdapter("lora"));
            uses.put("close", subject.model::close);
            try (Guard.Use use = subject.model.changing("trainStep")) {
                String owner = Thread.currentThread().getName();
                Threads.run(
                        1,
                        thread -> uses.forEach((name, work) ->
                                refused(work, name, "is being changed by thread " + owner + " (trainStep)")));
                // The thread that changes the model may do all of that.
                subject.logits();
                peft.setAdapter("lora");
            }
            Threads.run(1, thread -> assertThat(subject.logits()).isEqualTo(subject.alone.get("lora")));
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    private static void refused(Runnable work, String operation, String why) {
        assertThatThrownBy(work::run)
                .as(operation)
                .isInstanceOf(ConcurrentModificationException.class)
                .hasMessageStartingWith(operation + ": the model " + why)
                .hasMessageEndingWith("any number of threads may read it at a time, but what changes it must be alone");
    }

    @Test
    void anAdapterThatTrainsBiasesOfTheBaseAnswersAlone() {
        ReferenceBackend backend = new ReferenceBackend();
        try (Model model = Subjects.model("bert", backend, DType.F32);
                PeftModel peft = new PeftModel(model, 7)) {
            Subjects.add(peft, "lora", LoraConfig.defaults());
            Subjects.add(peft, "biases", LoraConfig.defaults().withBias(LoraConfig.Bias.ALL));
            try (Scope scope = Scope.open()) {
                Tensor ids = Subjects.ids(model, 2);
                double[] lora = Subjects.logits(peft, ids, null);
                peft.setAdapter("biases");
                double[] biases = Subjects.logits(peft, ids, null);
                assertThat(peft.withAdapter("lora", () -> Subjects.logits(peft, ids, null)))
                        .isEqualTo(lora);
                assertThat(peft.withAdapter("biases", () -> Subjects.logits(peft, ids, null)))
                        .isEqualTo(biases);
                peft.setAdapter("lora");
                assertThat(peft.withAdapter("biases", () -> Subjects.logits(peft, ids, null)))
                        .isEqualTo(biases);
                assertThat(Subjects.logits(peft, ids, null)).isEqualTo(lora);
                try (Guard.Use use = model.reading("logits")) {
                    assertThatThrownBy(() -> peft.withAdapter("biases", () -> 1))
                            .isInstanceOf(ConcurrentModificationException.class)
                            .hasMessageStartingWith("withAdapter biases: the model is being read");
                }
                // Inside another adapter's call, BASE applies instead.
                assertThat(peft.withAdapter("lora", () -> peft.withAdapter(PeftModel.BASE, () -> model.prefixes())))
                        .isNull();
            }
            assertThatThrownBy(() -> peft.withAdapter("none", () -> 1))
                    .isInstanceOf(InputException.class)
                    .hasMessage("adapter none does not exist; there are [lora, biases]");
            model.train(true);
            assertThatThrownBy(() -> peft.withAdapter("lora", () -> 1))
                    .isInstanceOf(IllegalStateException.class)
                    .hasMessageContaining("training mode");
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    @Test
    void aCacheAppendsOnManyThreadsThoughEachBelongsToOne() {
        try (Backend backend = new SimdBackend(2);
                Subject subject = new Subject("llama", backend, 1)) {
            Consumer<List<double[]>> goOn = into -> {
                try (KvCache cache = new KvCache(subject.model)) {
                    for (int token = 0; token < 8; token++) {
                        try (Scope scope = Scope.open()) {
                            into.add(cache.append(new int[][] {{token}}).toDoubles());
                        }
                    }
                }
            };
            List<double[]> alone = new ArrayList<>();
            goOn.accept(alone);
            Threads.run(THREADS, thread -> {
                List<double[]> mine = new ArrayList<>();
                goOn.accept(mine);
                for (int i = 0; i < mine.size(); i++) {
                    assertThat(mine.get(i)).isEqualTo(alone.get(i));
                }
            });
        }
    }

    /// A model with adapters, and the output of each of them alone.
    private static final class Subject implements AutoCloseable {
        private static final int ROWS = 3;

        final Model model;
        final PeftModel peft;
        final Map<String, double[]> alone = new LinkedHashMap<>();

        /// With adapters of every kind.
        Subject(String family, Backend backend) {
            this(family, backend, Subjects.mixable(family).keySet().stream().toList());
        }

        Subject(String family, Backend backend, int adapters) {
            this(
                    family,
                    backend,
                    Subjects.mixable(family).keySet().stream().limit(adapters).toList());
        }

        Subject(String family, Backend backend, List<String> adapters) {
            model = Subjects.model(family, backend, DType.F32);
            peft = new PeftModel(model, 7);
            Map<String, PeftConfig> all = Subjects.mixable(family);
            adapters.forEach(name -> Subjects.add(peft, name, Objects.requireNonNull(all.get(name))));
            model.prepare();
            for (String name : adapters) {
                peft.setAdapter(name);
                alone.put(name, logits());
            }
            peft.setAdapter(adapters.getFirst());
        }

        List<String> names() {
            return List.copyOf(alone.keySet());
        }

        double[] logits() {
            try (Scope scope = Scope.open();
                    Autograd.Mode mode = Autograd.noGrad()) {
                return peft.logits(Subjects.ids(model, ROWS), Subjects.mask(model, ROWS))
                        .toDoubles();
            }
        }

        double[] mixed(List<String> names) {
            try (Scope scope = Scope.open()) {
                return peft.logits(Subjects.ids(model, ROWS), null, names).toDoubles();
            }
        }

        @Override
        public void close() {
            peft.close();
            model.close();
        }
    }
}
