package dev.loran.peft.tuner;

import dev.loran.engine.Tensor;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.nn.Embedding;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.io.InputException;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;

/// LoRA on a model, and what its files hold in addition to A and B.
///
/// **Tables.** Where `embed_tokens` or `lm_head` is adapted, the files also hold its frozen weights, as peft's do; on
/// loading they are compared with the model's and never overwrite them.
///
/// **PiSSA and OLoRA.** A and B in a file refer to the remainder of the base, which a reader recomputes from the base:
/// the full decomposition is deterministic. A random one (`pissa_niter`) is not, so the cut part is stored in the file
/// of training tensors; peft's own files lack it and must be converted in peft. [#converted] needs neither.
final class LoraTuner extends Tuner {
    private static final String CUT_A = ".cut_A";
    private static final String CUT_B = ".cut_B";

    private final LoraConfig config;

    LoraTuner(LoraConfig config, Attachment to) {
        super(config, to);
        this.config = config;
    }

    private Map<String, LoraLinear> linears() {
        Map<String, LoraLinear> all = new LinkedHashMap<>();
        for (Placed<?> p : placements()) {
            if (p.adapter() instanceof LoraLinear lora) {
                all.put(p.module(), lora);
            }
        }
        return all;
    }

    @Override
    public Map<String, Tensor> fileTensors() {
        Map<String, Tensor> all = super.fileTensors();
        if (savesTables()) {
            all.putAll(repeated());
        }
        return all;
    }

    @Override
    public void load(Map<String, Tensor> values) {
        loadPlaced(values);
    }

    /// peft's rule: a list of targets must name `embed_tokens` or `lm_head` itself.
    private boolean savesTables() {
        List<String> tables = List.of("embed_tokens", "lm_head");
        List<String> names = config.targetModules().names();
        return config.trainableTokenIndices().isEmpty()
                && (names != null
                        ? tables.stream().anyMatch(names::contains)
                        : placements().stream().anyMatch(p -> Targets.matching(tables, p.module()) != null));
    }

    @Override
    public Map<String, Tensor> repeated() {
        Map<String, Tensor> all = new LinkedHashMap<>();
        for (Placed<?> p : placements()) {
            Tensor weight = null;
            if (p.adapter() instanceof LoraEmbedding
                    && p.layer() == attachment().model().tokenEmbedding()) {
                weight = ((Embedding) p.layer()).weight();
            } else if (p.adapter() instanceof LoraLinear && Targets.matching(List.of("lm_head"), p.module()) != null) {
                weight = ((Linear) p.layer()).weight();
            }
            if (weight != null) {
                all.put(key(p.module()) + ".base_layer.weight", weight);
            }
        }
        return all;
    }

    @Override
    public Map<String, Tensor> trainingTensors() {
        Map<String, Tensor> all = new LinkedHashMap<>();
        if (config.initLoraWeights().iterations() > 0) {
            linears().forEach((module, lora) -> {
                Residual residual = Objects.requireNonNull(lora.residual(), module);
                all.put(module + CUT_A, residual.cutA());
                all.put(module + CUT_B, residual.cutB());
            });
        }
        return all;
    }

    @Override
    public void loadTraining(Map<String, Tensor> values, String file) {
        Map<String, Tensor> own = trainingTensors();
        if (own.isEmpty() || !own.keySet().equals(values.keySet())) {
            throw new InputException(file + ": holds " + values.keySet() + " but the adapter needs " + own.keySet()
                    + "; the file belongs to another adapter");
        }
        linears()
                .forEach((module, lora) -> Objects.requireNonNull(lora.residual())
                        .learn(
                                Objects.requireNonNull(values.get(module + CUT_A)),
                                Objects.requireNonNull(values.get(module + CUT_B))));
    }

    /// An equivalent plain LoRA on the unmodified base: s·(B·A − B₀·A₀), with A₀ and B₀ as they were cut, is a LoRA of
    /// twice the rank with the same s. peft calls this the conversion by the initial model.
    @Override
    Saved converted() {
        if (!config.initLoraWeights().cutsBase()) {
            return saved();
        }
        Map<String, Tensor> tensors = new LinkedHashMap<>(fileTensors());
        tensors.putAll(resizedTables());
        for (Placed<?> p : placements()) {
            if (p.adapter() instanceof LoraEmbedding table) {
                // Nothing was cut from a table: its additional rank is filled with zeros.
                String key = key(p.module());
                tensors.put(key + ".lora_embedding_A", doubled(table.loraA, table.loraA.scale(0), 0));
                tensors.put(key + ".lora_embedding_B", doubled(table.loraB, table.loraB.scale(0), 1));
            }
        }
        linears().forEach((module, lora) -> {
            Residual residual = Objects.requireNonNull(lora.residual(), module);
            String key = key(module);
            tensors.put(key + ".lora_A.weight", doubled(lora.loraA, residual.cutA(), 0));
            tensors.put(
                    key + ".lora_B.weight", doubled(lora.loraB, residual.cutB().scale(-1), 1));
        });
        return new Saved(withHead(config.converted().toJson()), tensors, Map.of());
    }

    private static Tensor doubled(Tensor trained, Tensor cut, int axis) {
        return Functional.concat(List.of(trained.detach(), cut), axis);
    }
}
