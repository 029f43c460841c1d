package dev.loran.peft.task;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.peft.io.InputException;
import dev.loran.peft.task.TextClassifier.Pooling;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class SentencePoolingTest {
    @TempDir
    Path folder;

    private void modules(String... types) throws IOException {
        StringBuilder list = new StringBuilder("[");
        for (String type : types) {
            String path = type.equals("Pooling") ? "1_Pooling" : "";
            list.append(list.length() == 1 ? "" : ",")
                    .append("{\"path\":\"%s\",\"type\":\"sentence_transformers.models.%s\"}".formatted(path, type));
        }
        Files.writeString(folder.resolve("modules.json"), list.append("]"));
    }

    private void pooling(String config) throws IOException {
        Files.createDirectories(folder.resolve("1_Pooling"));
        Files.writeString(folder.resolve("1_Pooling/config.json"), config);
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = ';',
            value = {
                "CLS; {'pooling_mode_cls_token':true,'pooling_mode_mean_tokens':false}",
                "MEAN; {'word_embedding_dimension':8,'pooling_mode_mean_tokens':true,'pooling_mode_cls_token':false}",
                "MEAN; {'word_embedding_dimension':8}",
                "MAX; {'pooling_mode_max_tokens':true,'pooling_mode_mean_tokens':false}",
                "LAST; {'pooling_mode_lasttoken':true,'pooling_mode_mean_tokens':false}",
                "MEAN_SQRT_LEN; {'pooling_mode_mean_sqrt_len_tokens':true,'pooling_mode_mean_tokens':false}",
                "CLS; {'pooling_mode':'cls'}"
            })
    void thePoolingOfTheFilesIsTaken(Pooling expected, String config) throws IOException {
        assertThat(SentencePooling.read(folder)).isNull();
        pooling(config.replace('\'', '"'));
        assertThat(SentencePooling.read(folder)).isEqualTo(new SentencePooling(expected, false));
        modules("Transformer", "Pooling", "Normalize");
        assertThat(SentencePooling.read(folder)).isEqualTo(new SentencePooling(expected, true));
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = ';',
            value = {
                "{'pooling_mode_weightedmean_tokens':true,'pooling_mode_mean_tokens':false}; weightedmean_tokens",
                "{'pooling_mode_cls_token':true,'pooling_mode_mean_tokens':true};"
                        + " cls_token and mean_tokens side by side",
                "{'pooling_mode_mean_tokens':false}; no pooling"
            })
    void whatIsNotUnderstoodIsRefused(String config, String asked) throws IOException {
        modules("Transformer", "Pooling");
        pooling(config.replace('\'', '"'));
        assertThatThrownBy(() -> SentencePooling.read(folder))
                .isInstanceOf(InputException.class)
                .hasMessage(folder.resolve("1_Pooling/config.json") + ": asks for " + asked
                        + ", which is not supported; say --pooling to choose one of your own");
    }

    @Test
    void anotherModuleIsRefused() throws IOException {
        modules("Transformer", "Pooling", "Dense", "Normalize");
        pooling("{}");
        assertThatThrownBy(() -> SentencePooling.read(folder))
                .isInstanceOf(InputException.class)
                .hasMessage(folder.resolve("modules.json")
                        + ": module sentence_transformers.models.Dense is not supported where it stands; Transformer,"
                        + " Pooling and Normalize are, in this order; say --pooling to choose one of your own");
    }

    @Test
    void aPathStaysInTheFolder() throws IOException {
        Files.writeString(
                folder.resolve("modules.json"),
                "[{\"path\":\"../elsewhere\",\"type\":\"sentence_transformers.models.Pooling\"}]");
        assertThatThrownBy(() -> SentencePooling.read(folder))
                .isInstanceOf(InputException.class)
                .hasMessage(folder.resolve("modules.json") + ": path ../elsewhere leaves the folder");
    }
}
