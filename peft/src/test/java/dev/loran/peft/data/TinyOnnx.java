package dev.loran.peft.data;

import dev.loran.peft.data.OnnxWeights.BertShape;
import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Random;

/// Writes the ONNX file of a small random BERT encoder as PyTorch's exporter does: linear weights anonymous and
/// transposed, everything else with its name. Tests damage parts of it.
public final class TinyOnnx {
    /// Odd sizes, each different, so that no transposed or swapped shape passes.
    static final BertShape SHAPE = new BertShape(2, 6, 10, 13, 7, 2, true);

    /// From the Hugging Face name to the weight in (out, in) order.
    final Map<String, float[]> weights = new LinkedHashMap<>();

    private final Map<String, byte[]> tensors = new LinkedHashMap<>();
    private final Map<String, byte[]> nodes = new LinkedHashMap<>();

    public TinyOnnx(long seed) {
        Random random = new Random(seed);
        int[] anonymous = {880};
        SHAPE.weightShapes().forEach((name, shape) -> {
            float[] values = new float[shape.length == 1 ? shape[0] : shape[0] * shape[1]];
            for (int i = 0; i < values.length; i++) {
                values[i] = (float) random.nextGaussian();
            }
            weights.put(name, values);
            boolean linear = name.startsWith("encoder.") && shape.length == 2;
            if (linear) {
                String stored = "onnx::MatMul_" + anonymous[0]++;
                tensors.put(name, tensor(stored, 1, raw(transposed(values, shape[0], shape[1])), shape[1], shape[0]));
                String path = "/"
                        + name.substring(0, name.length() - ".weight".length()).replace('.', '/') + "/MatMul";
                nodes.put(name, node("MatMul", path.replace("layer/", "layer."), "hidden", stored));
            } else {
                tensors.put(name, tensor(name, 1, raw(values), shape));
            }
        });
        tensors.put("ids", tensor("embeddings.position_ids", 7, new byte[8 * 7], 1, 7));
        nodes.put("add", node("Add", "/embeddings/Add", "a", "b"));
    }

    /// Replaces the tensor of a weight, or adds a tensor to the weights.
    TinyOnnx withTensor(String key, byte[] tensor) {
        tensors.put(key, tensor);
        return this;
    }

    TinyOnnx withoutTensor(String key) {
        tensors.remove(key);
        return this;
    }

    TinyOnnx withNode(String key, byte[] node) {
        nodes.put(key, node);
        return this;
    }

    public byte[] file() {
        ByteArrayOutputStream graph = new ByteArrayOutputStream();
        nodes.values().forEach(node -> delimited(graph, 1, node));
        tensors.values().forEach(tensor -> delimited(graph, 5, tensor));
        ByteArrayOutputStream model = new ByteArrayOutputStream();
        integer(model, 1, 7);
        delimited(model, 2, "pytorch".getBytes(StandardCharsets.UTF_8));
        delimited(model, 7, graph.toByteArray());
        return model.toByteArray();
    }

    static byte[] tensor(String name, int dataType, byte[] raw, int... dims) {
        ByteArrayOutputStream tensor = new ByteArrayOutputStream();
        for (int dim : dims) {
            integer(tensor, 1, dim);
        }
        integer(tensor, 2, dataType);
        delimited(tensor, 8, name.getBytes(StandardCharsets.UTF_8));
        delimited(tensor, 9, raw);
        return tensor.toByteArray();
    }

    static byte[] node(String type, String name, String... inputs) {
        ByteArrayOutputStream node = new ByteArrayOutputStream();
        for (String input : inputs) {
            delimited(node, 1, input.getBytes(StandardCharsets.UTF_8));
        }
        delimited(node, 3, name.getBytes(StandardCharsets.UTF_8));
        delimited(node, 4, type.getBytes(StandardCharsets.UTF_8));
        return node.toByteArray();
    }

    static byte[] raw(float... values) {
        ByteBuffer bytes = ByteBuffer.allocate(4 * values.length).order(ByteOrder.LITTLE_ENDIAN);
        bytes.asFloatBuffer().put(values);
        return bytes.array();
    }

    static void delimited(ByteArrayOutputStream out, int field, byte[] content) {
        varint(out, field << 3 | 2);
        varint(out, content.length);
        out.writeBytes(content);
    }

    static void integer(ByteArrayOutputStream out, int field, long value) {
        varint(out, field << 3);
        varint(out, value);
    }

    static void varint(ByteArrayOutputStream out, long value) {
        for (; (value & ~0x7fL) != 0; value >>>= 7) {
            out.write((int) (value & 0x7f | 0x80));
        }
        out.write((int) value);
    }

    private static float[] transposed(float[] values, int rows, int columns) {
        float[] transposed = new float[values.length];
        for (int r = 0; r < rows; r++) {
            for (int c = 0; c < columns; c++) {
                transposed[c * rows + r] = values[r * columns + c];
            }
        }
        return transposed;
    }
}
