package dev.loran.peft;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ContainerNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;

/// Damages the bytes of a file, as a disk or a transfer might, or a person who edits it by hand or is malicious.
final class Mutations {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final JsonNodeFactory NODES = JsonNodeFactory.instance;
    private static final List<JsonNode> VALUES = List.of(
            NODES.nullNode(),
            NODES.booleanNode(true),
            NODES.booleanNode(false),
            NODES.numberNode(0),
            NODES.numberNode(1),
            NODES.numberNode(-1),
            NODES.numberNode(3),
            NODES.numberNode(64),
            NODES.numberNode(0.5),
            NODES.numberNode(100_000_000),
            NODES.numberNode(Integer.MAX_VALUE),
            NODES.numberNode(Integer.MIN_VALUE),
            NODES.numberNode(Long.MAX_VALUE),
            NODES.numberNode(1e308),
            NODES.numberNode(-1e-308),
            NODES.textNode(""),
            NODES.textNode("x"),
            NODES.textNode("../../etc/passwd"),
            NODES.textNode("\u0000\ud800"),
            NODES.textNode("(a*)*b|[[x"),
            NODES.textNode("y".repeat(5_000)),
            NODES.arrayNode(),
            NODES.objectNode());

    private Mutations() {}

    /// What is known about the structure of a file, so that damage can get past its first check.
    enum Format {
        BYTES,
        JSON,
        JSON_LINES,
        SAFE_TENSORS
    }

    static byte[] damaged(byte[] valid, Format format, SplittableRandom random) {
        byte[] result = valid;
        for (int times = 1 + random.nextInt(2); times > 0; times--) {
            boolean inside = format != Format.BYTES && random.nextInt(3) > 0;
            result = inside ? inside(result, format, random) : bytes(result, random);
        }
        return result;
    }

    private static byte[] inside(byte[] valid, Format format, SplittableRandom random) {
        return switch (format) {
            case BYTES -> bytes(valid, random);
            case JSON -> json(valid, random);
            case JSON_LINES -> line(valid, random);
            case SAFE_TENSORS -> header(valid, random);
        };
    }

    // ---- bytes

    private static byte[] bytes(byte[] valid, SplittableRandom random) {
        if (valid.length == 0) {
            return new byte[] {(byte) random.nextInt()};
        }
        int from = random.nextInt(valid.length);
        int to = Math.min(valid.length, from + 1 + random.nextInt(16));
        byte[] result = valid.clone();
        switch (random.nextInt(8)) {
            case 0 -> result[from] ^= (byte) (1 << random.nextInt(8));
            case 1 -> result[from] = (byte) random.nextInt();
            case 2 -> result = Arrays.copyOf(valid, from);
            case 3 -> result = spliced(valid, from, to, new byte[0]);
            case 4 -> result = spliced(valid, from, from, Arrays.copyOfRange(valid, from, to));
            case 5 -> result = spliced(valid, from, from, random(random, 1 + random.nextInt(8)));
            case 6 -> Arrays.fill(result, from, to, (byte) (random.nextBoolean() ? 0 : 0xff));
            default -> result = spliced(valid, valid.length, valid.length, random(random, 1 + random.nextInt(64)));
        }
        return result;
    }

    private static byte[] random(SplittableRandom random, int n) {
        byte[] bytes = new byte[n];
        random.nextBytes(bytes);
        return bytes;
    }

    private static byte[] spliced(byte[] of, int from, int to, byte[] between) {
        ByteBuffer result = ByteBuffer.allocate(of.length - (to - from) + between.length);
        return result.put(of, 0, from).put(between).put(of, to, of.length - to).array();
    }

    // ---- JSON

    private static byte[] json(byte[] valid, SplittableRandom random) {
        try {
            JsonNode root = JSON.readTree(valid);
            List<ContainerNode<?>> places = new ArrayList<>();
            collect(root, places);
            if (places.isEmpty()) {
                return bytes(valid, random);
            }
            change(places.get(random.nextInt(places.size())), places, random);
            String text = JSON.writeValueAsString(root);
            if (random.nextInt(50) == 0) {
                text = text.replaceFirst("(null|true|\\d+)", "[".repeat(3_000) + "]".repeat(3_000));
            }
            return text.getBytes(StandardCharsets.UTF_8);
        } catch (IOException e) {
            // It is already damaged.
            return bytes(valid, random);
        }
    }

    private static void collect(JsonNode node, List<ContainerNode<?>> places) {
        if (node instanceof ContainerNode<?> container && !container.isEmpty()) {
            places.add(container);
        }
        node.forEach(child -> collect(child, places));
    }

    private static void change(ContainerNode<?> place, List<ContainerNode<?>> others, SplittableRandom random) {
        JsonNode value = random.nextInt(8) == 0
                ? others.get(random.nextInt(others.size())).deepCopy()
                : VALUES.get(random.nextInt(VALUES.size())).deepCopy();
        int which = random.nextInt(place.size());
        switch (place) {
            case ObjectNode object -> {
                List<String> names = new ArrayList<>();
                object.fieldNames().forEachRemaining(names::add);
                String name = names.get(which);
                switch (random.nextInt(6)) {
                    case 0 -> object.remove(name);
                    case 1 -> object.set(name + "_", object.remove(name));
                    case 2 -> object.set("unknown", value);
                    default -> object.set(name, value);
                }
            }
            case ArrayNode array -> {
                switch (random.nextInt(4)) {
                    case 0 -> array.remove(which);
                    case 1 -> array.insert(which, array.get(which).deepCopy());
                    case 2 -> array.insert(which, value);
                    default -> array.set(which, value);
                }
            }
            default -> throw new IllegalStateException("no other container is in JSON");
        }
    }

    private static byte[] line(byte[] valid, SplittableRandom random) {
        String[] lines = new String(valid, StandardCharsets.UTF_8).split("\n", -1);
        int which = random.nextInt(lines.length);
        lines[which] = new String(json(lines[which].getBytes(StandardCharsets.UTF_8), random), StandardCharsets.UTF_8);
        return String.join("\n", lines).getBytes(StandardCharsets.UTF_8);
    }

    // ---- safetensors: eight bytes of length, a JSON header, values

    private static byte[] header(byte[] valid, SplittableRandom random) {
        if (valid.length < Long.BYTES) {
            return bytes(valid, random);
        }
        long length = ByteBuffer.wrap(valid).order(ByteOrder.LITTLE_ENDIAN).getLong();
        if (length < 2 || length > valid.length - Long.BYTES) {
            return bytes(valid, random);
        }
        int body = Long.BYTES + (int) length;
        byte[] header = json(Arrays.copyOfRange(valid, Long.BYTES, body), random);
        return ByteBuffer.allocate(Long.BYTES + header.length + valid.length - body)
                .order(ByteOrder.LITTLE_ENDIAN)
                .putLong(header.length)
                .put(header)
                .put(valid, body, valid.length - body)
                .array();
    }
}
