package dev.loran.peft.cli;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.io.SafeTensors;
import dev.loran.peft.cli.options.OutOptions;
import dev.loran.peft.data.TinyTokenizers;
import dev.loran.peft.model.Model;
import dev.loran.peft.train.RunFiles;
import dev.loran.peft.train.Tiny;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;

/// Unusable input is refused with exit code 2 and one line that names it.
class RefusalsTest extends CommandLineTest {
    @Test
    void commandLinesThatAreWrong() {
        assertRefused(
                loran(),
                "loran: which command? quickstart, example, train, pretrain, sweep, continual, eval, predict, generate, compare, report, ui, merge, inspect, targets, templates, doctor, completion (see loran --help)");
        assertRefused(
                loran("train", "--task", "classify"),
                "loran train: Missing required option: '--train=FILE' (see loran train --help)");
        assertRefused(
                train("--rank", "many"),
                "loran train: Invalid value for option '--rank': 'many' is not an int (see loran train --help)");
        assertRefused(
                train("--method", "magic"),
                "loran: method \"magic\" is not known; choose one of full, lora, dora, adalora, "
                        + "p-tuning, prompt, prefix, adapter, ia3, ln-tuning, bitfit");
        assertRefused(
                loran("train", "--task", "sing", "--train", train),
                "loran: task \"sing\" is not known; choose classify, regress, tag, embed, rerank, generate, chat, prefer or lm");
        assertThat(train("--method", "prefix_tunig").err()).endsWith("bitfit; did you mean prefix?\n");
        assertThat(train("--method", "houlsby").err()).endsWith("bitfit; did you mean adapter?\n");
        assertThat(train("--epoch", 3).err()).contains("; did you mean --epochs? (see loran train --help)");
        assertRefused(
                loran("train", "--task", "classify", "--train", train),
                "loran: --model is missing: a model folder, minilm, bge-small, e5-small, loran-tiny, or seo");
        assertRefused(train("--device", "tpu"), "loran: --device tpu is not known; choose auto, cpu or cuda");
        assertRefused(train("--dtype", "f8"), "loran: --dtype f8 is not known; choose f32 or bf16");
        assertRefused(train("--rank", 0), "loran: LoraConfig: r is 0, must be at least 1");
        assertRefused(
                loran(
                        "train",
                        "--model",
                        encoder,
                        "--task",
                        "classify",
                        "--train",
                        train,
                        "--method",
                        "p-tuning",
                        "--max-length",
                        20,
                        "--virtual-tokens",
                        4,
                        "--encoder",
                        "cnn"),
                "loran: --encoder cnn is not known; choose mlp, lstm or transformer");
        assertRefused(train("--epochs", 0), "loran: epochs is 0, must be at least 1");
        assertRefused(
                train("--steps", 10, "--warmup", 10),
                "loran: a warm-up of 10 steps does not fit a run of 10; warm up for fewer, or train longer");
    }

    @Test
    void modelsThatAreMissingOrDamaged() throws IOException {
        Path missing = folder.resolve("missing");
        assertRefused(
                eval("--model", missing, "--task", "lm", "--data", train),
                "loran: --model " + missing
                        + ": no such folder, and not one of minilm, bge-small, e5-small, loran-tiny, seo");
        Path weights = encoder.resolve("model.safetensors");
        byte[] bytes = Files.readAllBytes(weights);
        Files.write(weights, Arrays.copyOf(bytes, bytes.length - 100));
        Result truncated = train();
        assertThat(truncated.err())
                .startsWith("loran: " + weights + ": ")
                .doesNotContain("\tat ")
                .hasLineCount(1);
        assertThat(truncated.code()).isEqualTo(2);
        Files.delete(weights);
        assertRefused(
                train(), "loran: " + encoder + ": holds neither model.safetensors nor model.safetensors.index.json");
    }

    @Test
    void aTensorOfTheWrongShape() throws IOException {
        Path config = encoder.resolve("config.json");
        Files.writeString(
                config,
                Files.readString(config).replaceAll("\"intermediate_size\" : \\d+", "\"intermediate_size\" : 32"));
        assertRefused(
                train(),
                "loran: " + encoder
                        + ": tensor encoder.layer.0.intermediate.dense.weight is (64, 16) but config.json asks"
                        + " for (32, 16)");
    }

    @Test
    void targetsThatMatchNothing() {
        Result result = train("--targets", "q_prj,value");
        assertThat(result.code()).isEqualTo(2);
        assertThat(result.err())
                .hasLineCount(1)
                .startsWith("loran: target_modules [q_prj] match no module; did you mean query? (modules: ")
                .contains("query");
    }

    @Test
    void rowsThatAreWrong() throws IOException {
        Path empty = Files.writeString(folder.resolve("empty.jsonl"), "\n");
        Path words = Files.writeString(
                folder.resolve("words.jsonl"), "{\"text\": \"red\", \"label\": \"sport\"}\nred shoes\n");
        Path lacking = Files.writeString(folder.resolve("lacking.jsonl"), "{\"text\": \"red\"}\n");
        Path other = Files.writeString(folder.resolve("other.jsonl"), "{\"text\": \"red\", \"label\": \"food\"}\n");
        String form = "a row of task classify is {\"text\",\"label\"} or {\"text\",\"text_pair\",\"label\"}";
        Result noRows = loran("train", "--model", encoder, "--task", "classify", "--train", empty);
        assertRefused(noRows, "loran: " + empty + ": no rows; " + form);
        Result noJson = loran("train", "--model", encoder, "--task", "classify", "--train", words);
        assertThat(noJson.code()).isEqualTo(2);
        assertThat(noJson.err())
                .startsWith("loran: " + words + ":2: not JSON at column ")
                .hasLineCount(1);
        Result noField = loran("train", "--model", encoder, "--task", "classify", "--train", lacking);
        assertRefused(noField, "loran: " + lacking + ":1: field \"label\" is missing, found \"text\"; " + form);
        assertRefused(
                loran("train", "--model", encoder, "--task", "classify", "--train", folder.resolve("none.jsonl")),
                "loran: " + folder.resolve("none.jsonl") + ": no such file");
        assertRefused(
                train("--eval", other),
                "loran: " + other + ":1: field \"label\": label \"food\" is not one of the 2 labels of the model: "
                        + "purchase, sport");
        train("--steps", 1);
        assertRefused(
                eval("--model", encoder, "--adapter", folder.resolve("run"), "--data", other),
                "loran: " + other + ":1: field \"label\": label \"food\" is not one of the 2 labels of the model: "
                        + "purchase, sport");
    }

    @Test
    void moreTokensThanPositions() {
        Result result = loran("train", "--model", encoder, "--task", "classify", "--train", train, "--max-length", 25);
        assertRefused(result, "loran: --max-length 25 must be from 1 to 24: " + encoder + " has 24 positions");
        Result prompt = loran(
                "train",
                "--model",
                causal,
                "--task",
                "lm",
                "--method",
                "p-tuning",
                "--virtual-tokens",
                10,
                "--train",
                train,
                "--max-length",
                15);
        assertRefused(
                prompt,
                "loran: --max-length 15 must be from 1 to 14: " + causal
                        + " has 24 positions, of which virtual tokens take 10");
    }

    @Test
    void adaptersThatDoNotFit() throws IOException {
        train("--steps", 1);
        Path adapter = folder.resolve("run/last");
        // Another model of the same shape.
        try (ReferenceBackend backend = new ReferenceBackend();
                SafeTensors weights = SafeTensors.open(encoder.resolve("model.safetensors"));
                Model other = Tiny.causal(backend, DType.F32)) {
            assertThat(weights.names()).isNotEmpty();
            Tiny.save(other, folder.resolve("other"));
        }
        Result wrongBase = eval("--model", folder.resolve("other"), "--adapter", adapter, "--data", held);
        assertThat(wrongBase.code()).isEqualTo(2);
        assertThat(wrongBase.err())
                .hasLineCount(1)
                .startsWith("loran: " + adapter + ": the adapter was trained on " + encoder + " (SHA-256 ")
                .contains("not on " + folder.resolve("other"));
        assertRefused(
                eval("--model", encoder, "--adapter", adapter, "--task", "lm", "--data", held),
                "loran: " + adapter + ": was trained for task classify, not lm; leave --task out");
        assertRefused(
                eval("--model", encoder, "--adapter", folder, "--data", held),
                "loran: " + folder
                        + ": holds neither an adapter (adapter_config.json) nor a finished run; name one of these");
        Result noHead = eval("--model", encoder, "--task", "classify", "--data", held);
        assertThat(noHead.err())
                .startsWith("loran: --task classify: nothing says which classes ")
                .hasLineCount(1);
        Files.delete(adapter.resolve("head.safetensors"));
        assertRefused(
                eval("--model", encoder, "--adapter", adapter, "--data", held),
                "loran: " + adapter.resolve("head.safetensors") + ": no such file");
        assertRefused(
                loran("inspect", folder.resolve("nowhere")),
                "loran: " + folder.resolve("nowhere") + ": no such file or folder");
    }

    @Test
    void commandsAndModelsThatAreMisspelt() {
        assertThat(loran("trian").err())
                .isEqualTo("loran: Unmatched argument at index 0: 'trian'; did you mean train? (see loran --help)\n");
        assertThat(loran("train", "--model", "mini-lm", "--task", "classify", "--train", train)
                        .err())
                .endsWith("and not one of minilm, bge-small, e5-small, loran-tiny, seo; did you mean minilm?\n");
    }

    @Test
    void aNewModelThatCannotBeTrainedLeavesNothingBehind() throws IOException {
        Path out = folder.resolve("run");
        Path tokenizer = Files.write(folder.resolve("tokenizer.json"), TinyTokenizers.wordPieceJson());
        List<Object> seo = new ArrayList<>(List.of("train", "--model", "seo", "--task", "classify", "--train", train));
        seo.addAll(List.of("--out", out, "--hidden", 16, "--layers", 1, "--heads", 2, "--threads", 1));
        assertRefused(
                loran(seo.toArray()),
                "loran: --model seo needs --tokenizer: a folder with tokenizer.json, the file, or the name of a model of the catalogue, such as minilm");
        seo.addAll(List.of("--tokenizer", folder.resolve("none")));
        assertRefused(loran(seo.toArray()), "loran: " + folder.resolve("none") + ": no such file");
        seo.addAll(List.of("--tokenizer", tokenizer, "--targets", "w_qq"));
        Result targets = loran(seo.toArray());
        assertThat(targets.err())
                .startsWith("loran: target_modules [w_qq] match no module; did you mean w_q? (modules: ");
        assertThat(out).doesNotExist();
        seo.addAll(List.of("--targets", "w_q", "--steps", 1));
        assertThat(loran(seo.toArray()).code()).isZero();
        assertThat(out.resolve("base")).isDirectoryContaining("glob:**model.safetensors");
    }

    @Test
    void twoEqualRunsOfANewModelWriteTheSameFiles() throws IOException {
        Path tokenizer = Files.write(folder.resolve("tokenizer.json"), TinyTokenizers.wordPieceJson());
        List<Object> seo = new ArrayList<>(List.of("train", "--model", "seo", "--task", "classify", "--train", train));
        seo.addAll(List.of("--tokenizer", tokenizer, "--hidden", 16, "--layers", 1, "--heads", 2, "--threads", 1));
        seo.addAll(List.of("--steps", 3, "--save-steps", 2));
        for (String name : List.of("one", "two")) {
            Result result = loran(Stream.concat(seo.stream(), Stream.of("--out", folder.resolve(name)))
                    .toArray());
            assertThat(result.code()).as(result.err()).isZero();
        }
        // For a third run, the first one is made to look as if it had been killed after its checkpoint.
        Path resumed = folder.resolve("one");
        Map<String, String> first = RunFiles.of(resumed);
        assertThat(RunFiles.difference(RunFiles.of(folder.resolve("two")), first))
                .isEmpty();
        Files.delete(resumed.resolve("result.json"));
        assertThat(loran("train", "--resume", resumed).code()).isZero();
        assertThat(RunFiles.difference(RunFiles.of(resumed), first)).isEmpty();
    }

    @Test
    void aRunIsNotReplacedByMistake() throws IOException {
        Path run = folder.resolve("run");
        assertThat(train("--steps", 1).code()).isZero();
        Map<String, String> before = RunFiles.of(run);
        List<Object> plain = List.of("train", "--model", encoder, "--task", "classify", "--train", train, "--out", run);
        assertRefused(
                loran(plain.toArray()),
                "loran: " + run + ": holds a run already, a finished one; go on with it (--resume " + run
                        + "), replace it (--overwrite), or choose another folder (--out)");
        assertThat(RunFiles.of(run)).isEqualTo(before);
        Files.createDirectory(folder.resolve("usual"));
        Files.writeString(folder.resolve("usual/mine"), "mine");
        OutOptions options = new OutOptions();
        String usual = folder.resolve("usual").toString();
        assertThat(options.folder(usual)).isEqualTo(Path.of(usual + "-2"));
        Files.move(run, Path.of(usual + "-2"));
        assertThat(options.runFolder(usual)).isEqualTo(Path.of(usual + "-3"));
    }

    @Test
    void placesThatCannotBeWritten() throws IOException {
        Path file = Files.writeString(folder.resolve("file"), "mine");
        Path other = Files.createDirectory(folder.resolve("other"));
        Files.writeString(other.resolve("file"), "mine");
        assertRefused(
                train("--steps", 1, "--out", other),
                "loran: " + other + ": holds other files; choose a new or empty folder for the run");
        Result below = train("--steps", 1, "--out", file.resolve("run"));
        assertThat(below.err()).startsWith("loran: " + file.resolve("run") + ": cannot be made a run's folder (");
        assertThat(below.code()).isEqualTo(2);
        assertThat(file).hasContent("mine");
        assertThat(other).isDirectoryContaining("glob:**file");
    }

    @Test
    void optionsThatMakeNoSense() throws IOException {
        String empty = " has an empty name; part names by one comma each";
        assertRefused(train("--targets", "query,,value"), "loran: --targets \"query,,value\"" + empty);
        assertRefused(train("--targets", ""), "loran: --targets \"\"" + empty);
        assertRefused(
                train("--method", "prefix", "--virtual-tokens", 30),
                "loran: --virtual-tokens 30 leave no room for a text: " + encoder + " has 24 positions; choose fewer");
        assertRefused(train("--lr", 1e9), "loran: learning rate is 1.0E9, must be positive and less than 1e6");
        Path config = Files.writeString(folder.resolve("config.json"), "{\"lr\": {\"a\": 1}}");
        assertRefused(train("--config", config), "loran: " + config + ": lr is {\"a\":1}, needs one value");
        Files.writeString(config, "{\"lr\": 1,");
        assertRefused(
                train("--config", config),
                "loran: " + config + ": is no JSON (line 1: Unexpected end-of-input within/between Object entries)");
        Files.writeString(config, "{\"model\": \"a\\u0000b\"}");
        assertRefused(
                loran("train", "--config", config, "--train", train, "--task", "classify"),
                "loran: \"a?b\" cannot be the name of a file or folder (Nul character not allowed)");
        assertRefused(
                train("--config", folder.resolve("none.json")),
                "loran: " + folder.resolve("none.json") + ": no such file");
    }

    @Test
    void adaptersThatAreDamaged() throws IOException {
        train("--steps", 1);
        Path adapter = folder.resolve("run/last");
        Path config = adapter.resolve("adapter_config.json");
        Path weights = adapter.resolve("adapter_model.safetensors");
        String rightConfig = Files.readString(config);
        byte[] rightWeights = Files.readAllBytes(weights);
        Files.writeString(config, rightConfig.replaceFirst("\"r\" : 8", "\"r\" : 0"));
        assertRefused(evaluated(adapter), "loran: " + config + ": LoraConfig: r is 0, must be at least 1");
        Files.writeString(config, rightConfig.replaceFirst("\\{", "{\"use_hyper\": true, \"use_other\": false,"));
        assertThat(evaluated(adapter).err())
                .startsWith("loran: " + config + ": this version does not know what to do with use_hyper = true; ")
                .doesNotContain("use_other");
        Files.writeString(config, rightConfig.replace("\"query\"", "\"q_proj\"").replace("\"value\"", "\"q_proj\""));
        assertThat(evaluated(adapter).err())
                .startsWith(
                        "loran: " + config + ": target_modules [q_proj, q_proj] match no module that may be adapted; "
                                + "did you mean query? (modules: ");
        Files.writeString(config, "{");
        assertThat(evaluated(adapter).err())
                .isEqualTo("loran: " + config
                        + ": is no JSON (line 1: Unexpected end-of-input: expected close marker for Object)\n");
        Files.writeString(config, rightConfig);

        ByteBuffer longHeader = ByteBuffer.wrap(rightWeights.clone()).order(ByteOrder.LITTLE_ENDIAN);
        Files.write(weights, longHeader.putLong(0, rightWeights.length).array());
        assertThat(evaluated(adapter).err())
                .startsWith("loran: " + weights + ": header length ")
                .contains("exceeds the file");
        Files.move(weights, adapter.resolve("adapter_model.bin"));
        assertRefused(
                evaluated(adapter),
                "loran: " + adapter + ": holds adapter_model.bin, a pickle, which could run anything when read; "
                        + "save the adapter as safetensors (adapter_model.safetensors)");
        byte[] noNumbers = rightWeights.clone();
        Arrays.fill(noNumbers, noNumbers.length - 4 * 16, noNumbers.length, (byte) 0xff);
        Files.write(weights, noNumbers);
        assertRefused(
                evaluated(adapter),
                "loran: " + adapter
                        + ": answers with what is no number (NaN or infinity); its weights are damaged, or its"
                        + " training diverged; train again, with a lower --lr");
        assertRefused(evaluated(folder.resolve("nowhere")), "loran: " + folder.resolve("nowhere") + ": no such folder");
    }

    private Result evaluated(Path adapter) {
        return eval("--model", encoder, "--adapter", adapter, "--data", held);
    }
}
