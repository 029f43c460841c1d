package dev.loran.peft.seo;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.peft.data.Row;
import dev.loran.peft.data.Rows;
import dev.loran.peft.generation.TextLimit;
import dev.loran.peft.io.InputException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashSet;
import java.util.List;
import java.util.Objects;
import java.util.Set;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

class SeoTaskTest {
    @TempDir
    Path folder;

    private static String source(Row row) {
        return row instanceof Row.Classify classify ? classify.text() : ((Row.Generate) row).source();
    }

    private static String answer(Row row) {
        return row instanceof Row.Classify classify ? classify.label() : ((Row.Generate) row).target();
    }

    @ParameterizedTest
    @EnumSource
    void whatIsHeldOutIsNotTrainedOn(SeoTask task) {
        Set<String> train = task.train().stream().map(SeoTaskTest::source).collect(Collectors.toSet());
        Set<String> heldOut = task.heldOut().stream().map(SeoTaskTest::source).collect(Collectors.toSet());
        assertThat(train).hasSize(task.train().size()).hasSizeGreaterThan(700);
        assertThat(heldOut).hasSize(task.heldOut().size()).hasSizeGreaterThan(140);
        assertThat(train).doesNotContainAnyElementsOf(heldOut);
    }

    @Test
    void theInstructionsOfTheRowsHeldOutAreNew() {
        Set<String> train = new HashSet<>();
        SeoTask.INSTRUCTIONS.train().forEach(row -> train.add(source(row).split("\n")[0]));
        Set<String> heldOut = new HashSet<>();
        SeoTask.INSTRUCTIONS.heldOut().forEach(row -> heldOut.add(source(row).split("\n")[0]));
        assertThat(train).hasSize(27).doesNotContainAnyElementsOf(heldOut);
        assertThat(heldOut).hasSize(9);
    }

    @Test
    void theBrandsOfTheQueriesHeldOutAreNew() {
        List<String> known = List.of("velora", "nordhaus", "brimtek", "trailox");
        List<String> unknown = List.of("casalino", "farawell", "homewise", "bookaro");
        String train =
                SeoTask.SEARCH_INTENT.train().stream().map(SeoTaskTest::source).collect(Collectors.joining("\n"));
        String heldOut = SeoTask.SEARCH_INTENT.heldOut().stream()
                .map(SeoTaskTest::source)
                .collect(Collectors.joining("\n"));
        assertThat(train).contains(known).doesNotContain(unknown);
        assertThat(heldOut).contains(unknown).doesNotContain(known);
    }

    @ParameterizedTest
    @EnumSource
    void classesAreTheSameAndTextsKeepTheLimit(SeoTask task) {
        Set<String> train = task.train().stream().map(SeoTaskTest::answer).collect(Collectors.toSet());
        Set<String> heldOut = task.heldOut().stream().map(SeoTaskTest::answer).collect(Collectors.toSet());
        if (task.maxChars() == 0) {
            assertThat(heldOut).isEqualTo(train).hasSizeBetween(4, 7);
        } else {
            assertThat(train.stream().mapToInt(TextLimit::length).max().orElse(0))
                    .isBetween(task.maxChars() / 2, 155);
        }
    }

    @ParameterizedTest
    @EnumSource
    void theFilesAreThoseRowsAndSayWhereTheyAreFrom(SeoTask task) throws IOException {
        task.write(folder);
        task.write(folder);
        assertThat(Rows.read(folder.resolve(SeoTask.TRAIN), task.task())).isEqualTo(task.train());
        assertThat(Rows.read(folder.resolve(SeoTask.HELD_OUT), task.task())).isEqualTo(task.heldOut());
        String card = Files.readString(folder.resolve("README.md"));
        assertThat(card).contains("%,d rows".formatted(task.train().size())).contains("LICENSES.txt");
        boolean synthetic = task == SeoTask.SEARCH_INTENT || task == SeoTask.INSTRUCTIONS;
        assertThat(card.contains("SYNTHETIC")).isEqualTo(synthetic);
        assertThat(Files.readString(folder.resolve("LICENSES.txt")))
                .contains("SQLite", "PostgreSQL Global Development Group", "Django Software", "Apache License");
    }

    @Test
    void anotherNameIsRefused() {
        assertThat(SeoTask.named("page-type")).isEqualTo(SeoTask.PAGE_TYPE);
        assertThatThrownBy(() -> SeoTask.named("titles"))
                .isInstanceOf(InputException.class)
                .hasMessage("example \"titles\" is not known; choose one of page-type, search-intent, title, "
                        + "description, instructions; did you mean title?");
    }

    // ---- baselines

    @Test
    void theNearestRowHasTheRarestWordInCommon() {
        Baselines baselines = new Baselines(List.of(
                new Row.Generate("the shoes are red", "a"),
                new Row.Generate("the shoes are blue", "b"),
                new Row.Generate("the shoes are blue and green", "c")));
        assertThat(baselines.nearest("Red!")).isEqualTo("a");
        assertThat(baselines.nearest("shoes, blue")).isEqualTo("b");
        assertThat(baselines.nearest("are the green ones here")).isEqualTo("c");
        assertThat(baselines.nearest("nothing known")).isEqualTo("a");
        assertThat(Baselines.firstSentence("Do this.\nTo that. And more.")).isEqualTo("To that.");
    }

    @Test
    void baselinesOfTheShippedRows() {
        var types = Baselines.of(SeoTask.SEARCH_INTENT);
        assertThat(types.get("most frequent")).containsEntry("accuracy", 0.25);
        assertThat(Objects.requireNonNull(types.get("nearest neighbor")).get("accuracy"))
                .isBetween(0.4, 0.7);
        var titles = Baselines.of(SeoTask.TITLE);
        assertThat(titles.keySet()).containsExactly("first sentence", "nearest neighbor");
        assertThat(Objects.requireNonNull(titles.get("first sentence")).get("rouge_l"))
                .isCloseTo(0.148, within(0.03));
        assertThat(Objects.requireNonNull(titles.get("first sentence")).get("mean_chars"))
                .isLessThanOrEqualTo(60);
    }
}
