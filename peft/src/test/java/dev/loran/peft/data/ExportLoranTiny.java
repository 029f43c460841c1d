package dev.loran.peft.data;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.HostBuffer;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.model.Model;
import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.stream.Stream;

/// Writes the folder that the catalogue ships as `loran-tiny`, from a run of `loran pretrain` and one of `loran train`
/// that went on with it; `benchmarks/loran-tiny.sh` calls it with Loran's jars on the class path:
///
/// ```
/// java -cp 'peft/target/lib/*' ExportLoranTiny.java weights RUN OUT
/// java -cp 'peft/target/lib/*' ExportLoranTiny.java mean FIRST RUN OUT
/// java -cp 'peft/target/lib/*' ExportLoranTiny.java card FOLDER OUT
/// ```
///
/// The first form writes a run's best weights in BF16, with the configuration and the tokenizer; the second one the
/// weighted mean of these and those of the run that went on with them (Wortsman et al., "Robust fine-tuning of
/// zero-shot models", 2022), which keeps most of what the second run learned and forgets less; the third one the model
/// card `README.md` and `SHA256SUMS`. Of the folder of the script, it reads the runs `run`, with `notes.md` if that
/// is there, and `headed`; the data `corpus` and `headings`; and `measured-first.txt` and `measured.txt`, which end with
/// what `./loran bench perplexity --json` says of the weights after each of these runs.
final class ExportLoranTiny {
    private static final ObjectMapper JSON = new ObjectMapper();

    /// The weight of the second run in the mean.
    private static final double SHARE = 0.7;

    private static final List<String> TOKENIZER = List.of("tokenizer.json", "tokenizer_config.json");

    private ExportLoranTiny() {}

    public static void main(String[] args) throws IOException {
        if (args.length == 3 && args[0].equals("weights")) {
            weights(Path.of(args[1]), Path.of(args[2]));
        } else if (args.length == 4 && args[0].equals("mean")) {
            mean(Path.of(args[1]), Path.of(args[2]), Path.of(args[3]));
        } else if (args.length == 3 && args[0].equals("card")) {
            card(Path.of(args[1]), Path.of(args[2]));
        } else {
            System.err.println("usage: ExportLoranTiny weights RUN OUT | mean FIRST RUN OUT | card FOLDER OUT");
            System.exit(2);
        }
    }

    private static void weights(Path run, Path out) throws IOException {
        Files.createDirectories(out);
        Path best = run.resolve("best");
        try (Backend backend = new ReferenceBackend();
                Model model = HfModels.load(best, backend)) {
            HfModels.save(model, out, DType.BF16);
        }
        tokenizer(best, out);
    }

    private static void mean(Path first, Path run, Path out) throws IOException {
        Files.createDirectories(out);
        Path best = run.resolve("best");
        try (Backend backend = new ReferenceBackend();
                Model before = HfModels.load(first, backend);
                Model after = HfModels.load(best, backend)) {
            Map<String, Tensor> learned = after.namedParameters();
            before.namedParameters().forEach((name, parameter) -> {
                float[] old = parameter.toFloats();
                float[] other = Objects.requireNonNull(learned.get(name)).toFloats();
                // In BF16 in the file, and so not in its memory.
                MemorySegment memory = HostBuffer.segment(parameter.buffer());
                for (int i = 0; i < old.length; i++) {
                    memory.setAtIndex(ValueLayout.JAVA_FLOAT, i, (float) ((1 - SHARE) * old[i] + SHARE * other[i]));
                }
            });
            HfModels.save(before, out, DType.BF16);
        }
        tokenizer(best, out);
    }

    private static void tokenizer(Path best, Path out) throws IOException {
        for (String file : TOKENIZER) {
            // Without the line breaks, which are a third of the file.
            Files.writeString(
                    out.resolve(file),
                    JSON.readTree(Files.readString(best.resolve(file))).toString());
        }
    }

    private static void card(Path folder, Path out) throws IOException {
        Path run = folder.resolve("run");
        Path headed = folder.resolve("headed");
        Path corpus = folder.resolve("corpus");
        Path headings = folder.resolve("headings");
        JsonNode options = JSON.readTree(Files.readString(run.resolve("run.json")));
        JsonNode second = JSON.readTree(Files.readString(headed.resolve("run.json")));
        Progress further = Progress.of(headed.resolve("metrics.jsonl"));
        String sections = Files.readString(headings.resolve("sources.md"));
        int rows = total(sections);
        JsonNode config = JSON.readTree(Files.readString(out.resolve("config.json")));
        JsonNode figures = JSON.readTree(lastLine(folder.resolve("measured.txt")));
        Progress progress = Progress.of(run.resolve("metrics.jsonl"));
        Path notes = run.resolve("notes.md");
        String text = String.format(
                Locale.ROOT,
                CARD,
                config.get("hidden_size").asInt(),
                config.get("num_hidden_layers").asInt(),
                config.get("num_attention_heads").asInt(),
                config.get("intermediate_size").asInt(),
                config.get("vocab_size").asInt(),
                config.get("max_position_embeddings").asInt(),
                progress.bestStep,
                options.get("steps").asInt(),
                options.get("batch-size").asInt(),
                options.get("max-length").asInt(),
                progress.tokens / 1e6,
                options.get("lr").asDouble(),
                options.get("schedule").asText(),
                options.get("warmup").asInt(),
                options.get("weight-decay").asDouble(),
                options.get("seed").asInt(),
                options.get("dtype").asText(),
                progress.seconds / 3600,
                Files.exists(notes) ? Files.readString(notes) : "",
                rows,
                Files.readAllLines(headings.resolve("train.jsonl")).size() - rows,
                further.bestStep,
                second.get("batch-size").asInt(),
                second.get("max-length").asInt(),
                further.tokens / 1e6,
                second.get("lr").asDouble(),
                second.get("schedule").asText(),
                second.get("warmup").asInt(),
                second.get("seed").asInt(),
                1 - SHARE,
                SHARE,
                figures.get("tokens").asInt(),
                figures.get("perplexity").asDouble(),
                JSON.readTree(lastLine(folder.resolve("measured-first.txt")))
                        .get("perplexity")
                        .asDouble(),
                figures.get("ngram_order").asInt(),
                figures.get("ngram_perplexity").asDouble(),
                Files.readString(corpus.resolve("sources.md")),
                sha256(corpus.resolve("train.jsonl")),
                sha256(corpus.resolve("heldout.jsonl")),
                sha256(headings.resolve("train.jsonl")),
                sections);
        Files.writeString(out.resolve("README.md"), text);
        Path sums = out.resolve("SHA256SUMS");
        Files.deleteIfExists(sums);
        StringBuilder lines = new StringBuilder();
        try (Stream<Path> files = Files.list(out)) {
            for (Path file : files.sorted().toList()) {
                lines.append(sha256(file))
                        .append("  ")
                        .append(file.getFileName())
                        .append('\n');
            }
        }
        Files.writeString(sums, lines);
    }

    /// The sum of the last column of a table.
    private static int total(String table) {
        return table.lines()
                .skip(2)
                .mapToInt(line -> Integer.parseInt(
                        line.replaceFirst(".*\\|(.*)\\|$", "$1").strip().replace(",", "")))
                .sum();
    }

    private static String lastLine(Path file) throws IOException {
        return Files.readAllLines(file).getLast();
    }

    private static String sha256(Path file) throws IOException {
        try {
            byte[] sum = MessageDigest.getInstance("SHA-256").digest(Files.readAllBytes(file));
            return HexFormat.of().formatHex(sum);
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException("every Java platform has SHA-256", e);
        }
    }

    /// How far the run was when its best evaluation was made.
    ///
    /// @param tokens trained on until then
    /// @param seconds spent on that, without evaluations
    private record Progress(int bestStep, double tokens, double seconds) {
        static Progress of(Path metrics) throws IOException {
            Progress best = new Progress(0, 0, 0);
            double tokens = 0;
            double seconds = 0;
            for (String line : Files.readAllLines(metrics)) {
                JsonNode entry = JSON.readTree(line);
                if (entry.has("tokens")) {
                    tokens += entry.get("tokens").asDouble();
                    seconds = entry.get("seconds").asDouble();
                } else if (entry.path("best").asBoolean()) {
                    best = new Progress(entry.get("step").asInt(), tokens, seconds);
                }
            }
            return best;
        }
    }

    @SuppressWarnings("InlineFormatString") // too long to stand in a method
    private static final String CARD = """
            ---
            license: apache-2.0
            language: en
            library_name: transformers
            pipeline_tag: text-generation
            ---
            # loran-tiny

            A very small causal language model for English, made by Loran itself, from random weights, so that `generate` and
            fine-tuning of a causal model can be tried without a download. Loran finds it by its name (`--model loran-tiny`);
            transformers loads this folder as a `LlamaForCausalLM`.

            **What it is not.** It is not a model to get facts, advice or finished texts from: with so few parameters and
            so little text, it writes fluent phrases about nothing in particular, and invents what it does not know. It follows
            no instructions until it is fine-tuned. It was not tested for bias; almost a third of its text is older than a
            hundred years and has the views of its time.

            ## Model

            Llama shape with a tied head: width %d, %d blocks, %d heads, feed-forward width %d, a byte-level BPE of %,d
            tokens (learned from the training texts by Loran), %d positions. Weights in BF16. `<|endoftext|>` ends a text.

            ## Training

            `./loran pretrain`, AdamW: the checkpoint with the lowest held-out loss, after step %,d of %,d, each of %d rows of
            %d tokens (%.1f million tokens until then); learning rate %s, %s schedule with %d steps of warm-up, weight decay %s,
            seed %d, operands %s, on a CPU with 2 cores in %.1f hours. All texts are joined, with an end token after each, and
            cut into rows; rows come in a new order in each epoch.
            %s
            Then `./loran train --method full --pack`, so that it can head a text: on %,d sections of documentation, each with
            its heading, and %,d texts of the corpus, each as a few words and how they go on. What is learned are the headings
            and how texts go on; after step %,d, each of %d rows of %d tokens (%.1f million); learning rate %s, %s schedule with
            %d steps of warm-up, seed %d. The weights are the mean of those before, with a weight of %.1f, and those after it,
            with one of %.1f (Wortsman et al., "Robust fine-tuning of zero-shot models", 2022): the latter have forgotten more.
            The share was chosen so that the perplexity below stays under that of the n-grams, on the same held-out texts.

            ## Evaluation

            Perplexity of %,d held-out tokens, which are about 1 %% of the texts, chosen by a hash of their names:

            | model | perplexity |
            |---|---|
            | loran-tiny, these BF16 weights | %.2f |
            | the same before it learned headings | %.2f |
            | %d-grams of the training texts, interpolated modified Kneser-Ney | %.2f |

            Both predict the same tokens of the same rows, from what precedes them in the row (`./loran bench perplexity`).

            ## Texts

            %s
            Bytes are those of the texts taken: paragraphs of prose, without code, tables, navigation and repetitions. Of
            WordNet, entries marked as offensive are left out, and so are the 1,000 definitions that Loran's own data set
            (`ShippedData`) holds out. SHA-256 of the corpus: training `%s`, held out `%s`.

            WordNet 3.1 is copyright 2011 by Princeton University; the PostgreSQL documentation is copyright by The PostgreSQL
            Global Development Group, and portions by The Regents of the University of California; the Django documentation is
            copyright by the Django Software Foundation and individual contributors; the documentation of the Apache HTTP
            Server is copyright by The Apache Software Foundation. None of them endorses this model.

            The sections with headings are of other packages, so that no heading, nor its neighbors, of Loran's examples `title`,
            `description` and `page-type` was learned; the prose of those pages is a part of the corpus, however. SHA-256 of the
            sections with the texts that go on: `%s`. Their texts are copyright by the authors of these packages, none of whom
            endorses this model.

            %s

            ## To make it again

            ```
            benchmarks/loran-tiny.sh FOLDER
            ```

            fetches the packages, makes the corpus, trains, exports and measures; `benchmarks/loran-tiny.sh FOLDER ship` puts
            the result into Loran's sources. Runs with the same plan and the same versions of the packages, on CPUs with
            vectors of the same width, give the same weights bit for bit.
            """;
}
