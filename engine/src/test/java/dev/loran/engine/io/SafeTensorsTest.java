package dev.loran.engine.io;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.HostBuffer;
import dev.loran.engine.backend.ReferenceBackend;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.SplittableRandom;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/// The two resources were written by the format's own Python library (safetensors 0.8.0,
/// `safetensors.torch.save_file`): `native.safetensors` holds what [#nativeTensors] creates, `integers.safetensors`
/// holds i64 [[0, -5], [2³¹−1, −2³¹]], u8 [0, 255, 128], bool [true, false, true] and too_large.i64 [1, 2³¹].
class SafeTensorsTest {
    /// Uses memory in place, as fast backends do.
    private static final class InPlaceBackend extends ReferenceBackend {
        @Override
        public Buffer wrap(DType dtype, MemorySegment memory, Runnable onFree) {
            return new HostBuffer(this, dtype, memory, b -> onFree.run());
        }
    }

    @TempDir
    private Path folder;

    private final InPlaceBackend backend = new InPlaceBackend();

    @AfterEach
    void nothingLeaks() {
        assertThat(backend.liveBuffers()).isZero();
        backend.close();
    }

    private Path resource(String name) throws IOException {
        return Crafted.resource(folder, name);
    }

    private Map<String, Tensor> nativeTensors() {
        Map<String, Tensor> t = new LinkedHashMap<>();
        t.put("scalar", Tensor.of(backend, new float[] {7}));
        t.put("empty", Tensor.empty(backend, DType.F32, 0, 4));
        t.put("odd \"name\"\\ \n é", Tensor.of(backend, new float[] {2}, 1));
        t.put("weight.f32", Tensor.of(backend, new float[] {0.1f, -0.2f, 0.3f, 1e-40f, 3e38f, -0.0f}, 2, 3));
        t.put("weight.f64", Tensor.of(backend, DType.F64, new double[] {1.5, -2.25}, 1, 2));
        t.put("weight.bf16", Tensor.of(backend, DType.BF16, new double[] {1, -3.140625, 1e30}, 3));
        t.put("weight.f16", Tensor.of(backend, DType.F16, new double[] {1, -0.333251953125, 65504}, 3));
        t.put("ids.i32", Tensor.ofInts(backend, new int[] {1, Integer.MIN_VALUE, Integer.MAX_VALUE}, 1, 3));
        t.put("quantized.i8", Tensor.of(backend, DType.I8, new double[] {-128, 0, 127}, 3));
        return t;
    }

    private static void closeAll(Map<String, Tensor> tensors) {
        tensors.values().forEach(Tensor::close);
    }

    private double[] values(SafeTensors file, String name, DType dtype) {
        try (Tensor t = file.tensor(backend, name, dtype)) {
            assertThat(t.dtype()).isEqualTo(dtype);
            return t.toDoubles();
        }
    }

    // ---- files written by the other library

    @Test
    void readsWhatTheFormatsOwnLibraryWrote() throws IOException {
        Map<String, Tensor> expected = nativeTensors();
        try (SafeTensors file = SafeTensors.open(resource("native.safetensors"))) {
            assertThat(file.names()).containsExactlyInAnyOrderElementsOf(expected.keySet());
            assertThat(file.metadata()).containsExactly(Map.entry("format", "pt"));
            expected.forEach((name, e) -> {
                try (Tensor t = file.tensor(backend, name, e.dtype())) {
                    assertThat(t.shape()).as(name).isEqualTo(e.shape());
                    assertThat(t.toDoubles()).as(name).isEqualTo(e.toDoubles());
                }
            });
            assertThat(file.entry("weight.bf16").dtype()).isEqualTo(FileDType.BF16);
            assertThat(file.entry("weight.bf16").bytes()).isEqualTo(6);
        }
        closeAll(expected);
    }

    @Test
    void writesTheBytesThatTheFormatsOwnLibraryWrites() throws IOException {
        Map<String, Tensor> tensors = nativeTensors();
        Path written = folder.resolve("written.safetensors");
        SafeTensors.write(written, tensors);
        assertThat(Files.readAllBytes(written)).isEqualTo(Files.readAllBytes(resource("native.safetensors")));
        closeAll(tensors);
    }

    @Test
    void wideIntegersBytesAndBooleansAreReadAsI32() throws IOException {
        Path path = resource("integers.safetensors");
        try (SafeTensors file = SafeTensors.open(path)) {
            assertThat(file.entry("i64").dtype()).isEqualTo(FileDType.I64);
            assertThat(values(file, "i64", DType.I32)).containsExactly(0, -5, Integer.MAX_VALUE, Integer.MIN_VALUE);
            assertThat(values(file, "u8", DType.I32)).containsExactly(0, 255, 128);
            assertThat(values(file, "bool", DType.I32)).containsExactly(1, 0, 1);
            assertThatThrownBy(() -> file.tensor(backend, "too_large.i64", DType.I32))
                    .isInstanceOf(SafeTensorsException.class)
                    .hasMessage(path + ": tensor too_large.i64: element 1 is 2147483648, which does not fit I32");
            assertThatThrownBy(() -> file.tensor(backend, "u8", DType.F32))
                    .isInstanceOf(SafeTensorsException.class)
                    .hasMessage(path + ": tensor u8: is U8 and cannot be read as F32");
            assertThat(file.metadata()).isEmpty();
        }
    }

    // ---- converting and sharing

    @ParameterizedTest
    @CsvSource({"F64, F32", "F32, F64", "BF16, F32", "F16, F32", "F32, BF16", "F32, F16", "F64, BF16"})
    void convertsFloatingTypes(DType stored, DType wanted) {
        SplittableRandom random = new SplittableRandom(7);
        Path path = folder.resolve("x.safetensors");
        try (Tensor x = Tensor.randn(backend, stored, random, 1, 7, 33);
                Tensor rounded = Tensor.of(backend, wanted, x.toDoubles(), 7, 33)) {
            SafeTensors.write(path, Map.of("x", x));
            try (SafeTensors file = SafeTensors.open(path)) {
                assertThat(values(file, "x", wanted)).isEqualTo(rounded.toDoubles());
            }
            SafeTensors.writeParts(path, Map.of("x", SafeTensors.Part.of(x, wanted)), Map.of());
            try (SafeTensors file = SafeTensors.open(path)) {
                assertThat(file.entry("x").dtype().dtype()).isEqualTo(wanted);
                assertThat(values(file, "x", wanted)).isEqualTo(rounded.toDoubles());
            }
        }
    }

    @Test
    void aTensorInPlaceOutlivesTheFileAndItsMappingGoesWithItsLastCount() {
        Path path = folder.resolve("x.safetensors");
        double[] expected;
        try (Tensor x = Tensor.randn(backend, DType.F32, new SplittableRandom(1), 1, 33, 7)) {
            expected = x.toDoubles();
            SafeTensors.write(path, Map.of("x", x));
        }
        Tensor shared;
        Tensor own;
        try (SafeTensors file = SafeTensors.open(path)) {
            shared = file.tensor(backend, "x", DType.F32);
            own = file.copy(backend, "x", DType.F32);
        }
        MemorySegment mapping = HostBuffer.segment(shared.buffer());
        assertThat(mapping.isReadOnly()).isTrue();
        assertThat(HostBuffer.segment(own.buffer()).isReadOnly()).isFalse();
        assertThat(shared.toDoubles()).isEqualTo(expected);
        assertThat(own.toDoubles()).isEqualTo(expected);
        try (Tensor view = shared.detach()) {
            shared.close();
            assertThat(view.toDoubles()).isEqualTo(expected);
        }
        assertThat(mapping.scope().isAlive()).isFalse();
        own.close();
    }

    @Test
    void anUnalignedTensorIsCopied() throws IOException {
        byte[] data = new byte[5];
        ByteBuffer.wrap(data).order(ByteOrder.LITTLE_ENDIAN).putFloat(1, 1.5f);
        Path path = Crafted.file(
                folder,
                "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                        + "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[1,5]}}",
                data);
        try (SafeTensors file = SafeTensors.open(path);
                Tensor b = file.tensor(backend, "b", DType.F32)) {
            assertThat(b.item()).isEqualTo(1.5);
            assertThat(HostBuffer.segment(b.buffer()).isReadOnly()).isFalse();
        }
    }

    @Test
    void bytesAreMappedForAsLongAsTheArenaLives() throws IOException {
        Path path = resource("native.safetensors");
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment bytes;
            try (SafeTensors file = SafeTensors.open(path)) {
                bytes = file.map("quantized.i8", arena);
                assertThat(file.map("empty", arena).byteSize()).isZero();
            }
            assertThat(bytes.toArray(ValueLayout.JAVA_BYTE)).containsExactly(-128, 0, 127);
        }
    }

    @Test
    void aClosedFileSaysSo() throws IOException {
        Path path = resource("native.safetensors");
        SafeTensors file = SafeTensors.open(path);
        file.close();
        assertThatThrownBy(() -> file.tensor(backend, "scalar", DType.F32))
                .isInstanceOf(IllegalStateException.class)
                .hasMessage("safetensors: " + path + " was closed before scalar was read");
    }

    @Test
    void aMissingNameIsAnErrorThatShowsSomeOthers() throws IOException {
        Path path = resource("integers.safetensors");
        try (SafeTensors file = SafeTensors.open(path)) {
            assertThatThrownBy(() -> file.entry("weight"))
                    .isInstanceOf(SafeTensorsException.class)
                    .hasMessage(path + ": has no tensor weight among its 4 (i64, too_large.i64, u8, bool)");
        }
    }

    // ---- writing

    @Test
    void partsAreMadeOneAfterTheOtherAndClosed() {
        Map<String, SafeTensors.Part> parts = new HashMap<>();
        for (int i = 0; i < 5; i++) {
            double value = i;
            parts.put("t" + i, new SafeTensors.Part(DType.F32, Shape.of(1000), () -> {
                assertThat(backend.liveBuffers()).isZero();
                return Tensor.full(backend, DType.F32, value, 1000);
            }));
        }
        Path path = folder.resolve("parts.safetensors");
        SafeTensors.writeParts(path, parts, Map.of("made", "in parts", "by", "hand"));
        try (SafeTensors file = SafeTensors.open(path)) {
            assertThat(file.names()).containsExactly("t0", "t1", "t2", "t3", "t4");
            assertThat(values(file, "t3", DType.F32)).hasSize(1000).containsOnly(3);
            assertThat(file.metadata()).containsExactly(Map.entry("by", "hand"), Map.entry("made", "in parts"));
        }
    }

    @Test
    void tensorsLargerThanAChunkAreWrittenWhole() {
        Path path = folder.resolve("large.safetensors");
        int n = (1 << 20) + 33;
        float[] values = new float[n];
        for (int i = 0; i < n; i++) {
            values[i] = i;
        }
        try (Tensor x = Tensor.of(backend, values, n)) {
            SafeTensors.write(path, Map.of("x", x));
        }
        try (SafeTensors file = SafeTensors.open(path);
                Tensor x = file.tensor(backend, "x", DType.F32)) {
            assertThat(x.toFloats()).isEqualTo(values);
        }
    }

    @Test
    void aFailedWriteLeavesTheOldFileAndNothingElse() throws IOException {
        Path path = folder.resolve("kept.safetensors");
        try (Tensor x = Tensor.full(backend, DType.F32, 1, 3)) {
            SafeTensors.write(path, Map.of("x", x));
            byte[] before = Files.readAllBytes(path);
            assertThatThrownBy(() -> SafeTensors.writeParts(
                            path,
                            Map.of("x", new SafeTensors.Part(DType.F32, Shape.of(4), x::detach)),
                            SafeTensors.PYTORCH))
                    .isInstanceOf(IllegalArgumentException.class)
                    .hasMessage("safetensors: " + path + ": tensor x was announced as (4) but is (3)");
            assertThatThrownBy(() ->
                            SafeTensors.writeParts(path, Map.of("x", SafeTensors.Part.of(x, DType.I32)), Map.of()))
                    .isInstanceOf(IllegalArgumentException.class)
                    .hasMessage("safetensors: " + path + ": tensor x is F32 and cannot be written as I32");
            assertThat(Files.readAllBytes(path)).isEqualTo(before);
            Path nowhere = folder.resolve("nowhere").resolve("x.safetensors");
            assertThatThrownBy(() -> SafeTensors.write(nowhere, Map.of("x", x)))
                    .isInstanceOf(UncheckedIOException.class)
                    .hasMessageStartingWith("safetensors: " + nowhere + " cannot be written: ");
            assertThatThrownBy(() -> SafeTensors.write(path, Map.of("__metadata__", x)))
                    .isInstanceOf(IllegalArgumentException.class)
                    .hasMessage("safetensors: a tensor cannot be named __metadata__");
        }
        try (Stream<Path> left = Files.list(folder)) {
            assertThat(left).containsExactly(path);
        }
    }

    // ---- several files

    private void shard(String name, Map<String, Double> scalars) {
        Map<String, Tensor> tensors = new HashMap<>();
        scalars.forEach((n, v) -> tensors.put(n, Tensor.full(backend, DType.F32, v)));
        SafeTensors.write(folder.resolve(name), tensors);
        closeAll(tensors);
    }

    private void index(String json) throws IOException {
        Files.writeString(folder.resolve("model.safetensors.index.json"), json);
    }

    @Test
    void aModelMayLieInSeveralFiles() throws IOException {
        shard("model-00001-of-00002.safetensors", Map.of("a", 1.0, "b", 2.0));
        shard("model-00002-of-00002.safetensors", Map.of("c", 3.0, "b", 4.0));
        index("""
                {"metadata": {"total_size": 12, "total_parameters": 1.5e2, "note": null},
                 "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors",
                                "c": "model-00002-of-00002.safetensors"}}
                """);
        try (SafeTensors model = SafeTensors.openModel(folder)) {
            assertThat(model.names()).containsExactly("a", "b", "c");
            assertThat(values(model, "a", DType.F32)).containsExactly(1);
            assertThat(values(model, "b", DType.F32)).containsExactly(4);
            assertThat(values(model, "c", DType.F32)).containsExactly(3);
            assertThat(model.metadata()).isEqualTo(SafeTensors.PYTORCH);
        }
        shard("model.safetensors", Map.of("single", 5.0));
        try (SafeTensors model = SafeTensors.openModel(folder)) {
            assertThat(model.names()).containsExactly("single");
        }
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            quoteCharacter = '`',
            value = {
                "{}|: weight_map is no object",
                "[]|: no valid JSON at character 0: expected '{'",
                "{\"weight_map\": {\"a\": 1}}|: weight_map: value of a is no string",
                "{\"weight_map\": {\"a\": \"../x.safetensors\"}}|: \"../x.safetensors\" leads out of the folder",
                "{\"weight_map\": {\"a\": \"/x.safetensors\"}}|: \"/x.safetensors\" leads out of the folder",
                "{\"weight_map\": {\"a\": \"y/../../x\"}}|: \"y/../../x\" leads out of the folder",
                "{\"weight_map\": {\"a\": \"\"}}|: \"\" leads out of the folder",
                "{\"weight_map\": {\"a\": \"x\\u0000\"}}|: \"x\\u0000\" is no file name",
            })
    void aBadIndexIsRefused(String json, String message) throws IOException {
        index(json);
        assertThatThrownBy(() -> SafeTensors.openModel(folder))
                .isInstanceOf(SafeTensorsException.class)
                .hasMessage(folder.resolve("model.safetensors.index.json") + message);
    }

    @Test
    void anIndexThatPromisesTooMuchIsRefused() throws IOException {
        Path shard = folder.resolve("s.safetensors");
        index("{\"weight_map\": {\"a\": \"s.safetensors\", \"b\": \"s.safetensors\"}}");
        assertThatThrownBy(() -> SafeTensors.openModel(folder))
                .isInstanceOf(SafeTensorsException.class)
                .hasMessage(shard + ": no such file");
        shard("s.safetensors", Map.of("a", 1.0));
        assertThatThrownBy(() -> SafeTensors.openModel(folder))
                .isInstanceOf(SafeTensorsException.class)
                .hasMessage(shard + ": tensor b is missing, though " + folder.resolve("model.safetensors.index.json")
                        + " says that it is here");
        assertThatThrownBy(() -> SafeTensors.openModel(shard.resolveSibling("empty")))
                .isInstanceOf(SafeTensorsException.class)
                .hasMessage(
                        folder.resolve("empty") + ": holds neither model.safetensors nor model.safetensors.index.json");
    }

    // ---- interrupts

    /// Whatever an interrupted thread writes, or reads alongside others, must be complete, and the thread must stay
    /// interrupted.
    @Test
    void interruptsHarmNeitherFilesNorOtherReaders() throws Exception {
        Path file = folder.resolve("interrupted.safetensors");
        try (Tensor t = Tensor.of(new ReferenceBackend(), DType.F32, new double[] {1, 2, 3, 4}, 2, 2)) {
            Thread.currentThread().interrupt();
            SafeTensors.write(file, Map.of("t", t));
            assertThat(Thread.currentThread().isInterrupted()).isTrue();
            try (SafeTensors opened = SafeTensors.open(file)) {
                for (int i = 0; i < 3; i++) {
                    try (Tensor copy = opened.copy(new ReferenceBackend(), "t", DType.F32)) {
                        assertThat(copy.toFloats()).containsExactly(1, 2, 3, 4);
                    }
                }
                assertThat(Thread.interrupted()).isTrue();
                try (Tensor other = opened.tensor(new ReferenceBackend(), "t", DType.F32)) {
                    assertThat(other.toFloats()).containsExactly(1, 2, 3, 4);
                }
            }
        } finally {
            assertThat(Thread.interrupted()).isFalse();
        }
    }
}
