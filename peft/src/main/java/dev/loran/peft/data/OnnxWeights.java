package dev.loran.peft.data;

import dev.loran.engine.io.MappedFile;
import dev.loran.peft.io.InputException;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.foreign.ValueLayout.OfFloat;
import java.nio.ByteOrder;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SequencedMap;
import org.jspecify.annotations.Nullable;

/// The weights of a BERT encoder that PyTorch exported to ONNX, with their Hugging Face names and in their Hugging Face
/// layout.
///
/// The exporter keeps the names of biases, norms and embeddings, but folds the transpose of a linear layer into its
/// weight: the weight becomes an anonymous tensor of shape (in, out), the second input of a MatMul node whose name is
/// the path of the layer. Thus `/encoder/layer.0/attention/self/query/MatMul` names
/// `encoder.layer.0.attention.self.query.weight`, which is returned as (out, in). Every weight of a BERT encoder must
/// be present, with a shape that fits the others, and there must be no other weights.
///
/// The file is memory-mapped and read in place, until [#close()].
///
/// Format: the messages ModelProto, GraphProto, NodeProto and TensorProto of onnx.proto, float32 tensors in
/// `raw_data`.
public final class OnnxWeights implements AutoCloseable {
    private static final OfFloat STORED = ValueLayout.JAVA_FLOAT_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
    private static final int FLOAT = 1;

    private final Arena arena = Arena.ofShared();
    private final String file;
    private final SequencedMap<String, Weight> weights;
    private final BertShape shape;

    /// The sizes of a BERT encoder.
    ///
    /// @param layers encoder layers
    /// @param hiddenSize width of the residual stream
    /// @param intermediateSize width inside the feed-forward
    /// @param vocabSize rows of the token embedding
    /// @param positions rows of the position embedding: the longest sequence
    /// @param types rows of the token type embedding
    /// @param pooler whether there are weights for the pooler
    public record BertShape(
            int layers, int hiddenSize, int intermediateSize, int vocabSize, int positions, int types, boolean pooler) {
        /// The name and shape of every weight, in the order of the modules.
        SequencedMap<String, int[]> weightShapes() {
            SequencedMap<String, int[]> shapes = new LinkedHashMap<>();
            shapes.put("embeddings.word_embeddings.weight", new int[] {vocabSize, hiddenSize});
            shapes.put("embeddings.position_embeddings.weight", new int[] {positions, hiddenSize});
            shapes.put("embeddings.token_type_embeddings.weight", new int[] {types, hiddenSize});
            putNorm(shapes, "embeddings.LayerNorm");
            for (int i = 0; i < layers; i++) {
                String layer = "encoder.layer." + i + ".";
                putLinear(shapes, layer + "attention.self.query", hiddenSize, hiddenSize);
                putLinear(shapes, layer + "attention.self.key", hiddenSize, hiddenSize);
                putLinear(shapes, layer + "attention.self.value", hiddenSize, hiddenSize);
                putLinear(shapes, layer + "attention.output.dense", hiddenSize, hiddenSize);
                putNorm(shapes, layer + "attention.output.LayerNorm");
                putLinear(shapes, layer + "intermediate.dense", intermediateSize, hiddenSize);
                putLinear(shapes, layer + "output.dense", hiddenSize, intermediateSize);
                putNorm(shapes, layer + "output.LayerNorm");
            }
            if (pooler) {
                putLinear(shapes, "pooler.dense", hiddenSize, hiddenSize);
            }
            return shapes;
        }

        private static void putLinear(Map<String, int[]> shapes, String name, int out, int in) {
            shapes.put(name + ".weight", new int[] {out, in});
            shapes.put(name + ".bias", new int[] {out});
        }

        private void putNorm(Map<String, int[]> shapes, String name) {
            shapes.put(name + ".weight", new int[] {hiddenSize});
            shapes.put(name + ".bias", new int[] {hiddenSize});
        }
    }

    /// A weight that is still in the file.
    public static final class Weight {
        private final int[] shape;
        private final MemorySegment stored;
        private final boolean transposed;

        private Weight(int[] shape, MemorySegment stored, boolean transposed) {
            this.shape = shape;
            this.stored = stored;
            this.transposed = transposed;
        }

        /// The shape: (out, in) for a linear layer, (rows, width) for an embedding, (width) for a bias or norm.
        public int[] shape() {
            return shape.clone();
        }

        /// The values in row-major order.
        public float[] toArray() {
            float[] values = new float[Math.toIntExact(stored.byteSize() / Float.BYTES)];
            MemorySegment.copy(stored, STORED, 0, values, 0, values.length);
            return transposed ? transpose(values, shape[0], shape[1]) : values;
        }

        /// Transposes from (in, out) to (out, in).
        private static float[] transpose(float[] stored, int out, int in) {
            float[] values = new float[stored.length];
            for (int o = 0; o < out; o++) {
                for (int i = 0; i < in; i++) {
                    values[o * in + i] = stored[i * out + o];
                }
            }
            return values;
        }
    }

    /// A tensor as the file stores it.
    private record Stored(
            String name,
            int[] dims,
            long dataType,
            @Nullable MemorySegment raw) {}

    private OnnxWeights(Path path) {
        InputException.requireWhole(path);
        this.file = path.toString();
        try (MappedFile mapped = MappedFile.open(path)) {
            MemorySegment bytes = mapped.map(0, mapped.size(), arena);
            SequencedMap<String, Weight> found = named(bytes);
            this.shape = shapeOf(found);
            this.weights = ordered(found);
        } catch (IOException e) {
            arena.close();
            throw InputException.io(path, "cannot be read", e);
        } catch (RuntimeException e) {
            arena.close();
            throw e;
        }
    }

    /// Opens an ONNX file.
    ///
    /// @throws InputException for a file that cannot be read, is damaged, or holds no BERT encoder in float32
    public static OnnxWeights open(Path file) {
        return new OnnxWeights(file);
    }

    /// All weights by their Hugging Face names (`embeddings.…`, `encoder.layer.0.…`, `pooler.…`), in the order of the
    /// model's modules.
    public SequencedMap<String, Weight> weights() {
        return weights;
    }

    /// The sizes of the encoder, derived from the weights. It lacks what cannot be derived from them, the number of
    /// heads.
    public BertShape shape() {
        return shape;
    }

    /// Unmaps the file; the weights can no longer be read.
    @Override
    public void close() {
        arena.close();
    }

    private SequencedMap<String, Weight> named(MemorySegment bytes) {
        Map<String, Stored> tensors = new LinkedHashMap<>();
        Map<String, String> matMuls = new HashMap<>();
        Protobuf model = new Protobuf(bytes, file);
        while (model.next()) {
            if (model.field() == 7) {
                readGraph(model.message(), tensors, matMuls);
            }
        }
        if (tensors.isEmpty()) {
            throw bad("no weights: not an ONNX model");
        }
        SequencedMap<String, Weight> named = new LinkedHashMap<>();
        for (Stored tensor : tensors.values()) {
            String node = matMuls.get(tensor.name);
            // Integer tensors are buffers such as position_ids.
            if (tensor.dataType == FLOAT || node != null) {
                Weight weight = weight(tensor, node != null);
                String name = node == null ? tensor.name : linearName(node);
                if (named.putIfAbsent(name, weight) != null) {
                    throw bad("two weights are named " + name);
                }
            }
        }
        return named;
    }

    private void readGraph(Protobuf graph, Map<String, Stored> tensors, Map<String, String> matMuls) {
        while (graph.next()) {
            switch (graph.field()) {
                case 1 -> readNode(graph.message(), matMuls);
                case 5 -> {
                    Stored tensor = readTensor(graph.message());
                    if (tensors.put(tensor.name, tensor) != null) {
                        throw bad("two tensors are named " + tensor.name);
                    }
                }
                default -> {}
            }
        }
    }

    /// If the node is a MatMul, records its name under its second input.
    private static void readNode(Protobuf node, Map<String, String> matMuls) {
        List<String> inputs = new ArrayList<>();
        String name = "";
        String type = "";
        while (node.next()) {
            switch (node.field()) {
                case 1 -> inputs.add(node.string());
                case 3 -> name = node.string();
                case 4 -> type = node.string();
                default -> {}
            }
        }
        if (type.equals("MatMul") && inputs.size() == 2) {
            matMuls.put(inputs.get(1), name);
        }
    }

    private static Stored readTensor(Protobuf tensor) {
        List<Long> dims = new ArrayList<>();
        String name = "";
        long dataType = 0;
        MemorySegment raw = null;
        while (tensor.next()) {
            switch (tensor.field()) {
                case 1 -> {
                    // Repeated integers are stored one by one or packed.
                    for (long dim : tensor.isDelimited() ? tensor.packedIntegers() : new long[] {tensor.integer()}) {
                        dims.add(dim);
                    }
                }
                case 2 -> dataType = tensor.integer();
                case 8 -> name = tensor.string();
                case 9 -> raw = tensor.bytes();
                default -> {}
            }
        }
        // A dimension that exceeds int becomes 0, which matches no data.
        int[] shape = dims.stream()
                .mapToInt(dim -> dim == dim.intValue() ? dim.intValue() : 0)
                .toArray();
        return new Stored(name, shape, dataType, raw);
    }

    private Weight weight(Stored tensor, boolean transposed) {
        if (tensor.dataType != FLOAT) {
            throw bad("tensor " + tensor.name + " has ONNX data type " + tensor.dataType + ", not 1 (float32)");
        }
        if (tensor.raw == null) {
            throw bad("tensor " + tensor.name + " has no raw_data; weights in other fields or files are not read");
        }
        long bytes = Float.BYTES;
        for (int dim : tensor.dims) {
            bytes = dim <= 0 || bytes > tensor.raw.byteSize() ? 0 : bytes * dim;
        }
        if (bytes != tensor.raw.byteSize()) {
            throw bad("tensor " + tensor.name + " has shape " + Arrays.toString(tensor.dims) + " but "
                    + tensor.raw.byteSize() + " bytes");
        }
        if (!transposed) {
            return new Weight(tensor.dims, tensor.raw, false);
        }
        if (tensor.dims.length != 2) {
            throw bad("tensor " + tensor.name + " is multiplied as a matrix but has shape "
                    + Arrays.toString(tensor.dims));
        }
        return new Weight(new int[] {tensor.dims[1], tensor.dims[0]}, tensor.raw, true);
    }

    private String linearName(String node) {
        if (!node.startsWith("/") || !node.endsWith("/MatMul")) {
            throw bad("node \"" + node + "\" multiplies by a weight but its name is no module path");
        }
        return node.substring(1, node.length() - "/MatMul".length()).replace('/', '.') + ".weight";
    }

    private BertShape shapeOf(Map<String, Weight> found) {
        int[] words = dims(found, "embeddings.word_embeddings.weight", 2);
        int layers = 0;
        while (found.containsKey("encoder.layer." + layers + ".attention.self.query.weight")) {
            layers++;
        }
        return new BertShape(
                layers,
                words[1],
                dims(found, "encoder.layer.0.intermediate.dense.weight", 2)[0],
                words[0],
                dims(found, "embeddings.position_embeddings.weight", 2)[0],
                dims(found, "embeddings.token_type_embeddings.weight", 2)[0],
                found.containsKey("pooler.dense.weight"));
    }

    private int[] dims(Map<String, Weight> found, String name, int rank) {
        Weight weight = found.get(name);
        if (weight == null) {
            throw bad("weight " + name + " is missing");
        }
        if (weight.shape.length != rank) {
            throw bad(
                    "weight " + name + " has shape " + Arrays.toString(weight.shape) + ", not " + rank + " dimensions");
        }
        return weight.shape;
    }

    /// The weights in the order of the modules, each checked against the shape it must have.
    private SequencedMap<String, Weight> ordered(Map<String, Weight> found) {
        SequencedMap<String, Weight> ordered = new LinkedHashMap<>();
        shape.weightShapes().forEach((name, expected) -> {
            int[] actual = dims(found, name, expected.length);
            if (!Arrays.equals(actual, expected)) {
                throw bad("weight " + name + " has shape " + Arrays.toString(actual)
                        + ", but the model's sizes ask for " + Arrays.toString(expected));
            }
            ordered.put(name, found.get(name));
        });
        for (String name : found.keySet()) {
            if (!ordered.containsKey(name)) {
                throw bad("weight " + name + " is not part of a BERT encoder of " + shape.layers + " layers");
            }
        }
        return Collections.unmodifiableSequencedMap(ordered);
    }

    private InputException bad(String problem) {
        return new InputException(file + ": " + problem);
    }
}
