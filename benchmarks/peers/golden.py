"""Golden cases of Hugging Face peft for HfParityTest, in the layout of fixtures/hf/README.md, and the adapters of
fixtures/adapters next to it, which were made on another model of the family or change its embedding tables.

    python golden.py peft/src/test/resources/fixtures/hf [METHOD ...]

Reads FAMILY/base and the inputs of FAMILY/lora, writes FAMILY/METHOD for each method below; METHOD "adapters" stands for those
of fixtures/adapters. Requires torch, transformers and peft; none of this is needed to build or test Loran.
"""

import json
import sys
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

STEPS, LR, BETAS, EPS, DECAY, CLIP = 10, 0.01, (0.9, 0.999), 1e-8, 0.01, 1.0

ATTENTION = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "gpt2": ["c_attn", "attn.c_proj"],
    "bert": ["query", "value"],
}
TABLES = {"llama": ["embed_tokens", "lm_head"], "gpt2": ["wte", "lm_head"], "bert": ["word_embeddings"]}
# One of each kind: embedding tables, heads tied (GPT-2) and untied, linear layers, norms, and a module that contains another.
WHOLE = {
    "llama": ["embed_tokens", "lm_head", "o_proj", "norm"],
    "gpt2": ["wte", "ln_f"],
    "bert": ["word_embeddings", "pooler", "output.LayerNorm"],
}
# The gradient of a bias on keys is only rounding noise, on which AdamW makes random steps.
WITHOUT_KEYS = {"llama": ["q_proj", "v_proj", "down_proj"], "gpt2": ["attn.c_proj", "c_fc"], "bert": ["value", "dense"]}
LORA = {"r": 4, "lora_alpha": 8, "init_lora_weights": False}

# Method: families, and the LoraConfig arguments other than task and targets.
METHODS = {
    "lora_pissa": (("llama", "gpt2", "bert"), {**LORA, "init_lora_weights": "pissa"}),
    # peft decomposes GPT-2's transposed layers in the wrong orientation.
    "lora_olora": (("llama", "bert"), {**LORA, "init_lora_weights": "olora"}),
    "lora_with_bias": (("llama", "gpt2", "bert"), {**LORA, "lora_bias": True, "target_modules": WITHOUT_KEYS}),
    "lora_tables": (("llama", "gpt2", "bert"), {**LORA, "target_modules": TABLES}),
    "lora_tokens": (("llama", "gpt2", "bert"), {**LORA, "trainable_token_indices": [7, 2, 11]}),
    "lora_whole": (("llama", "gpt2", "bert"), {**LORA, "modules_to_save": WHOLE}),
    "lora_tied": (("gpt2",), {**LORA, "modules_to_save": {"gpt2": ["lm_head"]}, "ensure_weight_tying": True}),
    "dora_pissa": (("llama", "gpt2"), {**LORA, "init_lora_weights": "pissa", "use_dora": True}),
    "dora_rs": (("llama", "bert"), {**LORA, "lora_alpha": 4, "use_dora": True, "use_rslora": True}),
}


def base_model(family, folder):
    kind = transformers.BertForSequenceClassification if family == "bert" else transformers.AutoModelForCausalLM
    return kind.from_pretrained(folder / family / "base", dtype=torch.float32)


def config(family, options):
    options = dict(options)
    targets = options.pop("target_modules", ATTENTION)[family]
    if "modules_to_save" in options:
        options["modules_to_save"] = list(options["modules_to_save"][family])
    return peft.LoraConfig(
        task_type="SEQ_CLS" if family == "bert" else "CAUSAL_LM", target_modules=list(targets), **options
    )


def adapted(folder, family, options, seed):
    torch.manual_seed(seed)
    model = peft.get_peft_model(base_model(family, folder), config(family, options)).eval()
    for name, module in model.named_modules():
        # Make the magnitudes differ from their initial norms, as after training.
        if name.endswith("lora_magnitude_vector.default"):
            module.weight.data.mul_(1 + 0.1 * torch.rand_like(module.weight))
    return model


def trainable(model):
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def train(model, inputs):
    """The loss and gradient norm of each step, and all tensors at the end."""
    trained = trainable(model)
    optimizer = torch.optim.AdamW(trained.values(), lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY)
    losses, norms = [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(trained.values(), CLIP).item())
        losses.append(loss.item())
        optimizer.step()
    final = {n: p.detach().clone() for n, p in trained.items()}
    final["logits_after"] = model(**inputs).logits.detach()
    return losses, norms, final


def is_settled(folder, family, options, seed, inputs):
    """Whether single precision determines the values to within a fifth of the test's tolerances. It does not where AdamW
    divides a gradient of rounding noise by its own magnitude: any other summation order then gives other values."""
    single = train(adapted(folder, family, options, seed), inputs)
    double = train(adapted(folder, family, options, seed).double(), inputs)

    def off(a, b):
        a, b = torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64)
        return ((a - b).abs().max() / b.abs().max()).item()

    steps = all(off(x, y) < tolerance for i, tolerance in ((0, 2e-6), (1, 1e-5)) for x, y in zip(single[i], double[i]))
    tensors = all(off(t, double[2][n]) < (1e-5 if n == "logits_after" else 2e-4) for n, t in single[2].items())
    return steps and tensors


def write(folder, family, method, options):
    out = folder / family / method
    out.mkdir(parents=True, exist_ok=True)
    given = load_file(folder / family / "lora" / "io.safetensors")
    inputs = {k: given[k] for k in ("input_ids", "attention_mask", "labels")}
    seed = next(s for s in range(7, 1000) if is_settled(folder, family, options, s, inputs))
    model = adapted(folder, family, options, seed)
    save(model, out / "adapter_init")
    trained = trainable(model)
    io = {**inputs, **{f"init.{n}": p.detach().clone() for n, p in trained.items()}}
    answer = model(**inputs)
    answer.loss.backward()
    io |= {"logits": answer.logits.detach(), "loss": answer.loss.detach().reshape(1)}
    io |= {f"grad.{n}": p.grad.clone() for n, p in trained.items()}
    save_file({k: v.contiguous() for k, v in io.items()}, out / "io.safetensors")

    losses, norms, final = train(model, inputs)
    (out / "steps.json").write_text(json.dumps({"losses": losses, "grad_norms_before_clip": norms}, indent=1))
    save_file({k: v.contiguous() for k, v in final.items()}, out / "final.safetensors")
    save(model, out / "adapter_final")
    facts = {
        "model": family,
        "method": method,
        "task": "SEQ_CLS" if family == "bert" else "CAUSAL_LM",
        "steps": STEPS,
        "optimizer": {
            "name": "AdamW",
            "lr": LR,
            "betas": BETAS,
            "eps": EPS,
            "weight_decay": DECAY,
            "clip_grad_norm": CLIP,
        },
        "seed": seed,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }
    (out / "case.json").write_text(json.dumps(facts, indent=1))
    print(f"{family}/{method}: seed {seed}, loss {losses[0]:.4f} to {losses[-1]:.4f}")


def save(model, folder, tables="auto"):
    model.save_pretrained(folder, save_embedding_layers=tables)
    (folder / "README.md").unlink(missing_ok=True)
    file = folder / "adapter_config.json"
    facts = json.loads(file.read_text())
    # The location of the base model does not belong in the fixture.
    facts["base_model_name_or_path"] = None
    file.write_text(json.dumps(facts, indent=2, sort_keys=True))


ROWS = 100
QV = {"llama": ["q_proj", "v_proj"], "gpt2": ["c_attn"], "bert": ["query", "value"]}

# Case: family, class, and the LoraConfig arguments other than targets.
ADAPTERS = {
    "llama-bare": ("llama", transformers.LlamaModel, {"task_type": "FEATURE_EXTRACTION"}),
    "gpt2-bare": ("gpt2", transformers.GPT2Model, {"task_type": "FEATURE_EXTRACTION"}),
    "bert-bare": ("bert", transformers.BertModel, {"task_type": "FEATURE_EXTRACTION"}),
    "bert-masked": ("bert", transformers.BertForMaskedLM, {}),
    "gpt2-transposed": ("gpt2", transformers.GPT2LMHeadModel, {"modules_to_save": ["attn.c_proj"]}),
    "llama-resized": ("llama", transformers.LlamaForCausalLM, {"task_type": "CAUSAL_LM"}),
    "gpt2-resized": ("gpt2", transformers.GPT2LMHeadModel, {"task_type": "CAUSAL_LM"}),
}


def write_adapter(folder, case):
    """Writes an adapter with random values, and its model's outputs: logits, and the states after the last norm."""
    family, kind, options = ADAPTERS[case]
    torch.manual_seed(5)
    model = kind.from_pretrained(folder / family / "base", dtype=torch.float32).eval()
    resized = case.endswith("-resized")
    if resized:
        model.resize_token_embeddings(ROWS)
    model = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, target_modules=QV[family], **options)).eval()
    for p in trainable(model).values():
        p.data.add_(0.2 * torch.randn_like(p))
    out = folder.parent / "adapters" / case
    save(model, out, resized)
    given = load_file(folder / family / "lora" / "io.safetensors")
    expected = {k: given[k].clone() for k in ("input_ids", "attention_mask")}
    if resized:
        expected["input_ids"][:, 1] = ROWS - 1
    answer = model(**expected, output_hidden_states=True)
    expected["hidden"] = answer.hidden_states[-1].detach()
    if case in ("gpt2-transposed", "llama-resized", "gpt2-resized"):
        expected["logits"] = answer.logits.detach()
    save_file({k: v.contiguous() for k, v in expected.items()}, out / "expected.safetensors")
    print(case)


def main():
    folder, wanted = Path(sys.argv[1]), sys.argv[2:] or [*METHODS, "adapters"]
    for method in wanted:
        if method == "adapters":
            for case in ADAPTERS:
                write_adapter(folder, case)
            continue
        families, options = METHODS[method]
        for family in families:
            write(folder, family, method, options)


main()
