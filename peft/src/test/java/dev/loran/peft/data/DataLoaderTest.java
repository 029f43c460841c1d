package dev.loran.peft.data;

import static dev.loran.peft.data.Batch.IGNORE;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.peft.io.InputException;
import dev.loran.peft.task.ClassifyTask;
import dev.loran.peft.task.GenerateTask;
import dev.loran.peft.task.LmTask;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Random;
import java.util.Set;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class DataLoaderTest {
    @TempDir
    Path folder;

    /// Rows of 1 to 30 words, so 3 to 32 ids; the label says whether the row's number is odd.
    private static Examples examples(int rows) {
        Random random = new Random(7);
        List<Row> texts = new ArrayList<>();
        for (int i = 0; i < rows; i++) {
            texts.add(new Row.Classify("red ".repeat(1 + random.nextInt(30)).strip(), i % 2 == 0 ? "even" : "odd"));
        }
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            return Examples.of(new ClassifyTask(), texts, tokenizer, Examples.Options.of(40), null);
        }
    }

    private static List<Integer> rows(List<Batch> batches) {
        return batches.stream()
                .flatMap(batch -> Arrays.stream(batch.rows()).boxed())
                .toList();
    }

    @ParameterizedTest
    @ValueSource(ints = {1, 7, 33, 201})
    void everyEpochHoldsEveryRowOnceAndInItsOwnOrder(int size) {
        Examples examples = examples(Math.max(2, size));
        DataLoader loader = new DataLoader(examples, DataLoader.Options.training(4, 1));
        assertThat(loader.size()).isEqualTo(Math.ceilDiv(examples.size(), 4));
        List<Integer> all = IntStream.range(0, examples.size()).boxed().toList();
        Set<List<Integer>> orders = new HashSet<>();
        for (int epoch = 0; epoch < 3; epoch++) {
            List<Batch> batches = loader.epoch(epoch);
            assertThat(batches).hasSize(loader.size());
            assertThat(rows(batches)).containsExactlyInAnyOrderElementsOf(all);
            orders.add(rows(batches));
        }
        if (size > 4) {
            assertThat(orders).hasSize(3).doesNotContain(all);
        }
    }

    @Test
    void aBatchHoldsItsRowsPaddedOnTheRight() {
        Examples examples = examples(33);
        for (Batch batch :
                new DataLoader(examples, DataLoader.Options.training(5, 3).withPadToMultipleOf(8)).epoch(2)) {
            assertThat(batch.length() % 8).isZero();
            assertThat(batch.inputIds()).hasSize(batch.batchSize() * batch.length());
            assertThat(batch.lossTerms()).isEqualTo(batch.batchSize()).isEqualTo(batch.rows().length);
            assertThat(batch.tokens())
                    .isEqualTo(Arrays.stream(batch.attentionMask()).sum());
            int longest = 0;
            for (int b = 0; b < batch.batchSize(); b++) {
                int row = batch.rows()[b];
                int[] ids = Arrays.copyOfRange(batch.inputIds(), b * batch.length(), (b + 1) * batch.length());
                int[] mask = Arrays.copyOfRange(batch.attentionMask(), b * batch.length(), (b + 1) * batch.length());
                assertThat(ids).isEqualTo(Arrays.copyOf(examples.ids(row), batch.length()));
                int[] ones = new int[examples.length(row)];
                Arrays.fill(ones, 1);
                assertThat(mask).isEqualTo(Arrays.copyOf(ones, batch.length()));
                assertThat(batch.labels()[b]).isEqualTo(row % 2);
                longest = Math.max(longest, examples.length(row));
            }
            assertThat(batch.length() - longest).isLessThan(8);
        }
    }

    @Test
    void epochsAreAPureFunctionOfSeedAndEpochSoThatARunCanGoOn() {
        Examples examples = examples(101);
        DataLoader.Options options = DataLoader.Options.training(8, 42);
        List<Batch> whole = new DataLoader(examples, options).epoch(5);
        DataLoader resumed = new DataLoader(examples, options);
        List<Batch> rest = resumed.epoch(5).subList(6, resumed.size());
        assertThat(rows(rest)).isEqualTo(rows(whole.subList(6, whole.size())));
        assertThat(rows(new DataLoader(examples, DataLoader.Options.training(8, 43)).epoch(5)))
                .isNotEqualTo(rows(whole));
    }

    @Test
    void theOrderOfAnEpochIsTheSameOnEveryMachine() {
        DataLoader.Options options = new DataLoader.Options(4, true, 42, false, false, 1);
        assertThat(rows(new DataLoader(examples(8), options).epoch(1))).containsExactly(3, 5, 1, 4, 6, 0, 7, 2);
    }

    @Test
    void aBatchMayBeChangedByItsOwner() {
        DataLoader loader = new DataLoader(examples(8), DataLoader.Options.training(4, 1));
        List<Batch> epoch = loader.epoch(0);
        Batch batch = epoch.get(0);
        int[] before = batch.rows().clone();
        Arrays.fill(batch.rows(), -1);
        Arrays.fill(batch.inputIds(), -1);
        assertThat(epoch.get(0).rows()).isEqualTo(before);
    }

    @Test
    void bucketingPadsLess() {
        Examples examples = examples(400);
        long plain = 0;
        for (Batch batch : new DataLoader(examples, new DataLoader.Options(8, true, 1, false, false, 1)).epoch(0)) {
            plain += batch.inputIds().length - batch.tokens();
        }
        long bucketed = 0;
        List<Integer> lengths = new ArrayList<>();
        for (Batch batch : new DataLoader(examples, new DataLoader.Options(8, true, 1, true, false, 1)).epoch(0)) {
            bucketed += batch.inputIds().length - batch.tokens();
            lengths.add(batch.length());
        }
        assertThat(bucketed).isLessThan(plain / 10);
        assertThat(lengths)
                .as("short batches do not all come first")
                .isNotEqualTo(lengths.stream().sorted().toList());
    }

    @Test
    void theLastRowsMayBeDroppedAndAreOthersEachEpoch() {
        Examples examples = examples(33);
        DataLoader loader = new DataLoader(examples, new DataLoader.Options(8, true, 1, true, true, 1));
        assertThat(loader.size()).isEqualTo(4);
        Set<Integer> seen = new HashSet<>();
        Set<Integer> dropped = new HashSet<>();
        for (int epoch = 0; epoch < 4; epoch++) {
            List<Integer> rows = rows(loader.epoch(epoch));
            assertThat(rows).hasSize(32).doesNotHaveDuplicates();
            seen.addAll(rows);
            IntStream.range(0, 33).filter(row -> !rows.contains(row)).forEach(dropped::add);
        }
        assertThat(seen).hasSize(33);
        assertThat(dropped).hasSizeGreaterThan(1);
        assertThatThrownBy(() -> new DataLoader(examples, new DataLoader.Options(34, true, 1, true, true, 1)))
                .isInstanceOf(InputException.class)
                .hasMessage("batch size 34 is more than the 33 rows there are, and the last batch is dropped");
    }

    @Test
    void withoutShuffleAndBucketsTheOrderIsTheFilesOwn() {
        Examples examples = examples(33);
        DataLoader loader = new DataLoader(examples, new DataLoader.Options(8, false, 1, false, false, 1));
        assertThat(rows(loader.epoch(3)))
                .isEqualTo(IntStream.range(0, 33).boxed().toList());
        assertThat(loader.epoch(3).getLast().batchSize()).isEqualTo(1);
    }

    @Test
    void theLongestBatchIsKnownBeforeItComesAndNeverExceedsTheMaximum() {
        Examples examples = examples(200);
        DataLoader loader = new DataLoader(examples, new DataLoader.Options(8, true, 1, true, false, 64));
        assertThat(examples.longest()).isEqualTo(32);
        assertThat(loader.longest()).isEqualTo(40);
        assertThat(loader.epoch(0))
                .allSatisfy(batch -> assertThat(batch.length()).isEqualTo(40));
        DataLoader exact = new DataLoader(examples, new DataLoader.Options(Integer.MAX_VALUE, true, 1, true, false, 1));
        assertThat(exact.longest()).isEqualTo(32);
        assertThat(exact.epoch(0))
                .singleElement()
                .satisfies(batch -> assertThat(batch.length()).isEqualTo(32));
    }

    @Test
    void promptsAndPaddingHaveNoPartInTheLoss() {
        try (Tokenizer bytes = TinyTokenizers.bytes(folder)) {
            Examples examples = Examples.of(
                    new GenerateTask(),
                    List.of(new Row.Generate("a", "bc"), new Row.Generate("abc", "d")),
                    bytes,
                    Examples.Options.of(9),
                    null);
            Batch batch = new DataLoader(examples, new DataLoader.Options(2, false, 0, false, false, 8))
                    .epoch(0)
                    .getFirst();
            assertThat(batch.length()).isEqualTo(8);
            assertThat(batch.inputIds()).containsExactly(64, 198, 65, 66, 256, 0, 0, 0, 64, 65, 66, 198, 67, 256, 0, 0);
            assertThat(batch.labels())
                    .containsExactly(
                            IGNORE, IGNORE, 65, 66, 256, IGNORE, IGNORE, IGNORE, IGNORE, IGNORE, IGNORE, IGNORE, 67,
                            256, IGNORE, IGNORE);
            assertThat(batch.lossTerms()).isEqualTo(5);
            assertThat(batch.tokens()).isEqualTo(11);
        }
    }

    @Test
    void aTextPredictsEveryTokenButItsFirst() {
        try (Tokenizer bytes = TinyTokenizers.bytes(folder)) {
            Examples examples = Examples.of(
                    new LmTask(), List.of(new Row.Text("ab"), new Row.Text("c")), bytes, Examples.Options.of(9), null);
            Batch batch = new DataLoader(examples, new DataLoader.Options(2, false, 0, false, false, 1))
                    .epoch(0)
                    .getFirst();
            assertThat(batch.labels()).containsExactly(64, 65, 256, 66, 256, IGNORE);
            assertThat(batch.attentionMask()).containsExactly(1, 1, 1, 1, 1, 0);
            assertThat(batch.lossTerms()).isEqualTo(3);
        }
    }

    @Test
    void optionsAreChecked() {
        assertThatThrownBy(() -> DataLoader.Options.training(0, 1))
                .isInstanceOf(InputException.class)
                .hasMessage("batch size 0 must be at least 1");
        assertThatThrownBy(() -> new DataLoader.Options(1, true, 1, true, true, 0))
                .isInstanceOf(InputException.class)
                .hasMessage("padToMultipleOf 0 is not positive");
    }
}
