package dev.loran.peft.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.peft.data.OnnxWeights.Weight;
import dev.loran.peft.io.InputException;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class OnnxWeightsTest {
    private static final String QUERY = "encoder.layer.1.attention.self.query.weight";
    private static final String BIAS = "encoder.layer.1.attention.self.query.bias";

    @TempDir
    Path folder;

    private final TinyOnnx onnx = new TinyOnnx(5);

    private OnnxWeights open(byte[] bytes) throws IOException {
        return OnnxWeights.open(Files.write(folder.resolve("tiny.onnx"), bytes));
    }

    private void refused(byte[] bytes, String problem) {
        assertThatThrownBy(() -> open(bytes))
                .isInstanceOf(InputException.class)
                .hasMessage(folder.resolve("tiny.onnx") + ": " + problem);
    }

    @Test
    void everyWeightHasItsHuggingFaceNameShapeAndOrder() throws IOException {
        try (OnnxWeights weights = open(onnx.file())) {
            assertThat(weights.shape()).isEqualTo(TinyOnnx.SHAPE);
            assertThat(weights.weights().keySet()).containsExactlyElementsOf(onnx.weights.keySet());
            weights.weights().forEach((name, weight) -> {
                assertThat(weight.shape())
                        .as(name)
                        .isEqualTo(TinyOnnx.SHAPE.weightShapes().get(name));
                assertThat(weight.toArray()).as(name).isEqualTo(onnx.weights.get(name));
            });
        }
    }

    @Test
    void packedDimensionsAreReadToo() throws IOException {
        ByteArrayOutputStream dims = new ByteArrayOutputStream();
        TinyOnnx.varint(dims, 6);
        ByteArrayOutputStream tensor = new ByteArrayOutputStream();
        TinyOnnx.delimited(tensor, 1, dims.toByteArray());
        tensor.writeBytes(TinyOnnx.tensor(BIAS, 1, TinyOnnx.raw(1, 2, 3, 4, 5, 6)));
        try (OnnxWeights weights =
                open(onnx.withTensor(BIAS, tensor.toByteArray()).file())) {
            assertThat(weights.weights().get(BIAS)).extracting(Weight::toArray).isEqualTo(new float[] {1, 2, 3, 4, 5, 6
            });
        }
    }

    /// Wherever the file is truncated, it is refused as bad input: never another exception, never partial weights.
    @Test
    void aFileCutAnywhereIsRefused() {
        byte[] whole = onnx.file();
        for (int length = 0; length < whole.length; length += length < 200 ? 1 : 97) {
            byte[] cut = Arrays.copyOf(whole, length);
            assertThatThrownBy(() -> open(cut))
                    .as("cut to %d bytes", length)
                    .isInstanceOf(InputException.class)
                    .hasMessageStartingWith(folder.resolve("tiny.onnx").toString());
        }
    }

    @Test
    void lengthsAndKeysThatCannotBeAreNamedWithTheirByte() {
        refused(
                new byte[] {0x3a, 0x7f},
                "byte 2: a field of 127 bytes, but its message has only 0 more; the file is damaged");
        refused(
                new byte[] {0x3a, -1, -1, -1, -1, -1, -1, -1, -1, -1, 1},
                "byte 11: a field of 18446744073709551615 bytes, but its message has only 0 more; the file is damaged");
        refused(
                new byte[] {0x3a, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 1},
                "byte 11: a number is longer than ten bytes; the file is damaged");
        refused(new byte[] {0x3b}, "byte 1: wire type 3 is not known; the file is damaged");
        refused(new byte[] {0x02, 0x00}, "byte 1: there is no field number 0; the file is damaged");
        refused(new byte[] {0x38, 0x00}, "byte 2: field 7 should hold bytes, but has wire type 0; the file is damaged");
        refused(
                "not a model".getBytes(StandardCharsets.UTF_8),
                "byte 1: wire type 6 is not known; the file is damaged");
        refused(new byte[0], "no weights: not an ONNX model");
    }

    @Test
    void tensorsThatDoNotFitAreNamed() {
        refused(
                new TinyOnnx(5)
                        .withTensor(BIAS, TinyOnnx.tensor(BIAS, 1, new byte[20], 6))
                        .file(),
                "tensor " + BIAS + " has shape [6] but 20 bytes");
        refused(
                new TinyOnnx(5)
                        .withTensor(BIAS, TinyOnnx.tensor(BIAS, 1, new byte[4], 1 << 30, 1 << 30, 4))
                        .file(),
                "tensor " + BIAS + " has shape [1073741824, 1073741824, 4] but 4 bytes");
        refused(
                new TinyOnnx(5)
                        .withTensor(BIAS, TinyOnnx.tensor(BIAS, 1, new byte[28], 7))
                        .file(),
                "weight " + BIAS + " has shape [7], but the model's sizes ask for [6]");
        refused(
                new TinyOnnx(5)
                        .withTensor(BIAS, TinyOnnx.tensor(BIAS, 1, new byte[24], 6, 1))
                        .file(),
                "weight " + BIAS + " has shape [6, 1], not 1 dimensions");
        refused(
                new TinyOnnx(5)
                        .withTensor(QUERY, TinyOnnx.tensor("onnx::MatMul_886", 10, new byte[72], 6, 6))
                        .file(),
                "tensor onnx::MatMul_886 has ONNX data type 10, not 1 (float32)");
        refused(
                new TinyOnnx(5)
                        .withTensor(QUERY, TinyOnnx.tensor("onnx::MatMul_886", 1, new byte[144], 36))
                        .file(),
                "tensor onnx::MatMul_886 is multiplied as a matrix but has shape [36]");
        byte[] withoutData = Arrays.copyOf(
                TinyOnnx.tensor(BIAS, 1, new byte[0], 6), TinyOnnx.tensor(BIAS, 1, new byte[0], 6).length - 2);
        refused(
                new TinyOnnx(5).withTensor(BIAS, withoutData).file(),
                "tensor " + BIAS + " has no raw_data; weights in other fields or files are not read");
    }

    @Test
    void theWeightsMustBeThoseOfABertEncoderAndNoOthers() {
        refused(new TinyOnnx(5).withoutTensor(BIAS).file(), "weight " + BIAS + " is missing");
        refused(
                new TinyOnnx(5)
                        .withoutTensor("embeddings.word_embeddings.weight")
                        .file(),
                "weight embeddings.word_embeddings.weight is missing");
        refused(
                new TinyOnnx(5)
                        .withTensor("more", TinyOnnx.tensor("decoder.bias", 1, new byte[4], 1))
                        .file(),
                "weight decoder.bias is not part of a BERT encoder of 2 layers");
        refused(
                new TinyOnnx(5)
                        .withTensor("more", TinyOnnx.tensor(BIAS, 1, new byte[4], 1))
                        .file(),
                "two tensors are named " + BIAS);
        refused(
                new TinyOnnx(5)
                        .withTensor("more", TinyOnnx.tensor(QUERY, 1, new byte[144], 6, 6))
                        .file(),
                "two weights are named " + QUERY);
        refused(
                new TinyOnnx(5)
                        .withNode(QUERY, TinyOnnx.node("MatMul", "MatMul_12", "x", "onnx::MatMul_886"))
                        .file(),
                "node \"MatMul_12\" multiplies by a weight but its name is no module path");
    }

    @Test
    void aFileThatIsNotThereIsBadInput() {
        Path missing = folder.resolve("missing.onnx");
        assertThatThrownBy(() -> OnnxWeights.open(missing))
                .isInstanceOf(InputException.class)
                .hasMessage(missing + ": no such file");
    }
}
