package dev.loran.peft.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.DType;
import dev.loran.engine.ReferenceBackend;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.Task;
import dev.loran.peft.data.TinyTokenizers;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.model.Model;
import dev.loran.peft.train.Predictor.Answer;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.tuner.PrefixTuningConfig;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class PredictorTest {
    private final ReferenceBackend backend = new ReferenceBackend();
    private final Tokenizer tokenizer = TinyTokenizers.wordPiece();
    private final Model model = Tiny.encoder(backend, DType.F64);
    private final PeftModel peft = new PeftModel(model, 7);
    private final TaskModel classifier;

    PredictorTest() {
        peft.addAdapter("default", PrefixTuningConfig.of(3));
        classifier = TaskModel.of(peft, TaskCard.classify(Tiny.LABELS, 16), 11);
    }

    @AfterEach
    void nothingIsLeft() {
        classifier.close();
        peft.close();
        model.close();
        tokenizer.close();
        assertThat(backend.liveBuffers()).isZero();
        backend.close();
    }

    private static List<String> texts(int n, long seed) {
        return Tiny.rows(n, seed).stream().map(Row.Classify::text).toList();
    }

    @ParameterizedTest
    @ValueSource(ints = {1, 7, 33})
    void answersAreThoseOfEachTextByItselfInTheOrderOfTheTexts(int n) {
        List<String> texts = texts(n, 4);
        List<Answer> together = Predictor.answers(classifier, tokenizer, texts, 4);
        assertThat(together).extracting(Answer::text).containsExactlyElementsOf(texts);
        for (int i = 0; i < n; i++) {
            Answer a = together.get(i);
            Answer alone = Predictor.answers(classifier, tokenizer, List.of(texts.get(i)), 1)
                    .getFirst();
            assertThat(a.label()).isEqualTo(alone.label());
            assertThat(a.probabilities()).containsExactly(alone.probabilities(), within(1e-5));
            assertThat(a.embedding()).hasSize(16).containsExactly(alone.embedding(), within(1e-5f));
            assertThat(Arrays.stream(a.probabilities()).sum()).isCloseTo(1, within(1e-12));
            int likeliest = Tiny.LABELS.id(a.label());
            assertThat(a.probability())
                    .isEqualTo(a.probabilities()[likeliest])
                    .isGreaterThanOrEqualTo(a.probabilities()[1 - likeliest]);
        }
        if (n == 33) {
            // A model that answers everything alike would pass all of the above.
            assertThat(together.stream().map(Answer::probability).distinct().count())
                    .isGreaterThan(5);
        }
    }

    @Test
    void whatWaitsIsFiftyBatchesAndNoMore() {
        List<Answer> answered = new ArrayList<>();
        Predictor predictor = new Predictor(classifier, tokenizer, 1, answered::add);
        List<String> texts = texts(120, 5);
        texts.subList(0, 49).forEach(predictor::add);
        assertThat(answered).isEmpty();
        predictor.add(texts.get(49));
        assertThat(answered).hasSize(50);
        texts.subList(50, 120).forEach(predictor::add);
        assertThat(answered).hasSize(100);
        predictor.finish();
        predictor.finish();
        assertThat(answered).extracting(Answer::text).containsExactlyElementsOf(texts);
        assertThat(predictor.truncated()).isZero();
        predictor.add("red ".repeat(40));
        predictor.finish();
        assertThat(predictor.truncated()).isEqualTo(1);
    }

    @Test
    void anotherTaskIsRefused() {
        try (Model causal = Tiny.causal(backend, DType.F32);
                TaskModel lm = TaskModel.full(causal, TaskCard.of(Task.LM, 16), 1)) {
            assertThatThrownBy(() -> new Predictor(lm, tokenizer, 4, a -> {}))
                    .isInstanceOf(IllegalArgumentException.class)
                    .hasMessage("predictor: the model is for task lm, not classify");
        }
    }
}
