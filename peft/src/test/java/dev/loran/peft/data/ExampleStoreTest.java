package dev.loran.peft.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class ExampleStoreTest {
    private static Example random(Random random) {
        List<Example.Text> texts = new ArrayList<>();
        for (int n = 1 + random.nextInt(3); n > 0; n--) {
            int length = random.nextInt(20);
            int[] types = random.nextBoolean() ? random.ints(length, 0, 2).toArray() : null;
            texts.add(new Example.Text(random.ints(length).toArray(), types));
        }
        return new Example(texts, random.ints(random.nextInt(4)).toArray(), random.nextBoolean());
    }

    private static void assertSame(Example actual, Example expected) {
        assertThat(actual.truncated()).isEqualTo(expected.truncated());
        assertThat(actual.target()).isEqualTo(expected.target());
        assertThat(actual.texts()).hasSameSizeAs(expected.texts());
        for (int i = 0; i < expected.texts().size(); i++) {
            assertThat(actual.texts().get(i).ids())
                    .isEqualTo(expected.texts().get(i).ids());
            assertThat(actual.texts().get(i).types())
                    .isEqualTo(expected.texts().get(i).types());
        }
    }

    /// Block sizes for which most, some or none of the examples leave the heap; some examples are larger than a block.
    @ParameterizedTest
    @ValueSource(ints = {1, 30, 97, 1 << 20})
    void whatWasAddedIsReadInAnyOrder(int blockInts) throws IOException {
        Random random = new Random(blockInts);
        List<Example> all = new ArrayList<>();
        ExampleStore store = new ExampleStore(blockInts);
        for (int i = 0; i < 500; i++) {
            all.add(random(random));
            store.add(all.getLast());
            // Also while others are still being added.
            assertSame(store.get(i / 2), all.get(i / 2));
        }
        assertThat(temporaryFiles()).as("names of temporary files").isEmpty();
        assertThat(store.size()).isEqualTo(500);
        for (int i : random.ints(1000, 0, 500).toArray()) {
            Example expected = all.get(i);
            assertSame(store.get(i), expected);
            assertThat(store.target(i)).isEqualTo(expected.target());
            assertThat(store.length(i))
                    .isEqualTo(expected.texts().stream()
                            .mapToInt(t -> t.ids().length)
                            .max()
                            .orElseThrow());
        }
        assertThatThrownBy(() -> store.get(500)).isInstanceOf(IndexOutOfBoundsException.class);
    }

    @Test
    void anInterruptLosesNothing() throws IOException {
        Random random = new Random(5);
        List<Example> all = new ArrayList<>();
        ExampleStore store = new ExampleStore(97);
        Thread.currentThread().interrupt();
        for (int i = 0; i < 100; i++) {
            all.add(random(random));
            store.add(all.getLast());
        }
        assertThat(Thread.interrupted()).as("still interrupted").isTrue();
        for (int i = 0; i < 100; i++) {
            assertSame(store.get(i), all.get(i));
        }
        assertThat(temporaryFiles()).isEmpty();
    }

    private static List<Path> temporaryFiles() throws IOException {
        try (Stream<Path> files = Files.list(Path.of(System.getProperty("java.io.tmpdir")))) {
            return files.filter(f -> f.getFileName().toString().startsWith("loran-rows"))
                    .toList();
        }
    }

    // ---- more rows than memory

    /// A number that determines the ids of a row.
    record Numbered(int number) implements Row {}

    /// Rows of 100 ids.
    static final class Numbers implements RowForm {
        @Override
        public String name() {
            return "numbers";
        }

        @Override
        public String form() {
            return "{}";
        }

        @Override
        public List<String> fields() {
            return List.of();
        }

        @Override
        public Row row(Fields fields) {
            throw new AssertionError("no file is read");
        }

        static int[] ids(int number) {
            int[] ids = new int[100];
            Arrays.setAll(ids, i -> number * 31 + i);
            return ids;
        }

        @Override
        public Encoding encoding(Tokenizer tokenizer, Examples.Options options, @Nullable Labels labels) {
            return (row, out) -> {
                int number = ((Numbered) row).number;
                out.example(Example.of(ids(number), null, number));
            };
        }

        @Override
        public Targets targets(Examples examples, int[] rows, int length) {
            int[] numbers =
                    Arrays.stream(rows).map(row -> examples.target(row)[0]).toArray();
            return Targets.of(numbers, rows.length, rows.length);
        }
    }

    /// Reads 48 MB of ids with a heap of 24 MB, and goes through two shuffled epochs of them.
    public static void main(String[] args) {
        int rows = 120_000;
        Iterable<Numbered> all = () -> java.util.stream.IntStream.range(0, rows)
                .mapToObj(Numbered::new)
                .iterator();
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            Examples examples =
                    Examples.read(RowSource.of(all), new Numbers(), tokenizer, Examples.Options.of(100), null);
            long sum = 0;
            for (int epoch = 0; epoch < 2; epoch++) {
                for (Batch batch : new DataLoader(examples, DataLoader.Options.training(64, 1)).epoch(epoch)) {
                    for (int b = 0; b < batch.batchSize(); b++) {
                        int number = batch.labels()[b];
                        if (batch.inputIds()[b * 100 + 99] != number * 31 + 99) {
                            throw new AssertionError("row " + number);
                        }
                        sum += number;
                    }
                }
            }
            System.out.println("sum " + sum);
        }
    }

    @Test
    void rowsMayBeMoreThanTheHeapHolds() throws IOException, InterruptedException {
        Process child = new ProcessBuilder(
                        Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                        "-Xmx24m",
                        "-XX:TieredStopAtLevel=1",
                        "-cp",
                        System.getProperty("java.class.path"),
                        ExampleStoreTest.class.getName())
                .redirectErrorStream(true)
                .start();
        String out = new String(child.getInputStream().readAllBytes(), java.nio.charset.StandardCharsets.UTF_8);
        assertThat(child.waitFor()).as(out).isZero();
        assertThat(out.strip()).endsWith("sum " + 120_000L * 119_999L);
    }
}
