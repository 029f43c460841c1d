"""Exchanges adapters between Loran and the real peft, in both directions: each must give the same answers as the other.

    python benchmarks/peers/exchange.py                     every method on tiny random models of every family
    python benchmarks/peers/exchange.py MODEL ADAPTER       an encoder's folder and an adapter that Loran trained for it

"to peft": Loran trains an adapter and saves it, peft loads it. "from peft": peft trains one and saves it, Loran loads it.
Answers may differ by 1e-4 of the largest. The last line gives the totals; the exit status is 1 if any case fails. Requires
torch, transformers, peft and safetensors.
"""

import itertools
import subprocess
import sys
import tempfile
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

LORAN = Path(__file__).resolve().parents[2] / "loran"
TOLERANCE = 1e-4
STEPS = 5
VOCAB, LENGTH, CLASSES = 97, 11, 3

ATTENTION = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "gpt2": ["c_attn", "attn.c_proj"],
    "bert": ["query", "value"],
}
FEED_FORWARD = {"llama": ["down_proj"], "gpt2": ["mlp.c_proj"], "bert": ["output.dense"]}
KEYS = {"llama": ["k_proj", "v_proj"], "gpt2": ["c_attn"], "bert": ["key", "value"]}
TABLES = {"llama": ["embed_tokens", "lm_head"], "gpt2": ["wte"], "bert": ["word_embeddings"]}
NORMS = {"llama": ["input_layernorm", "norm"], "gpt2": ["ln_1", "ln_f"], "bert": ["LayerNorm"]}
FAMILIES = tuple(ATTENTION)


def lora(family, **options):
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": ATTENTION[family], **options})


def adalora(family):
    return peft.AdaLoraConfig(
        init_r=5, target_r=2, tinit=1, tfinal=1, deltaT=1, total_step=STEPS, target_modules=ATTENTION[family]
    )


def ia3(family):
    # "output.dense" also occurs in BERT's attention; peft scales the input of every module listed as feed-forward.
    names = KEYS[family] + FEED_FORWARD[family]
    return peft.IA3Config(target_modules=names, feedforward_modules=FEED_FORWARD[family])


METHODS = {
    "lora": lora,
    "lora, all linear layers": lambda f: lora(f, target_modules="all-linear"),
    "lora, ranks by pattern": lambda f: lora(f, rank_pattern={"0.*": 2}, alpha_pattern={"1.*": 3}),
    "rslora": lambda f: lora(f, use_rslora=True),
    "dora": lambda f: lora(f, use_dora=True),
    "pissa": lambda f: lora(f, init_lora_weights="pissa"),
    "olora": lambda f: lora(f, init_lora_weights="olora"),
    "converted to plain lora": lambda f: lora(f, init_lora_weights="pissa" if f == "gpt2" else "olora"),
    "lora, biases of the base": lambda f: lora(f, bias="all"),
    "lora, bias on B": lambda f: lora(f, lora_bias=True),
    "lora, tables and head": lambda f: lora(f, target_modules=TABLES[f]),
    "lora, trained tokens": lambda f: lora(f, trainable_token_indices=[3, 50, 7]),
    "adalora": adalora,
    "p-tuning, perceptron": lambda f: peft.PromptEncoderConfig(num_virtual_tokens=5, encoder_hidden_size=10),
    "p-tuning, lstm": lambda f: peft.PromptEncoderConfig(
        num_virtual_tokens=5, encoder_reparameterization_type="LSTM", encoder_hidden_size=10
    ),
    "prompt": lambda f: peft.PromptTuningConfig(num_virtual_tokens=5),
    "prefix": lambda f: peft.PrefixTuningConfig(num_virtual_tokens=5),
    "prefix, projected": lambda f: peft.PrefixTuningConfig(
        num_virtual_tokens=5, prefix_projection=True, encoder_hidden_size=10
    ),
    "ia3": ia3,
    "ln_tuning": lambda f: peft.LNTuningConfig(target_modules=NORMS[f]),
}
# peft 0.21 extracts OLoRA from GPT-2's transposed layers in the wrong orientation: it cannot run the result.
CASES = [(m, f, False) for m, f in itertools.product(METHODS, FAMILIES) if (m, f) != ("olora", "gpt2")]
# Classifiers on models without a classification head: the head is new and comes with the adapter.
HEADED = ("lora", "lora, all linear layers", "dora", "lora, biases of the base", "prompt", "ia3", "ln_tuning")
# Given embeddings as input, as with prompts, transformers reads a causal model's last position even if it is padding.
CASES += [(m, f, True) for m, f in itertools.product(HEADED, FAMILIES) if m != "prompt" or f == "bert"]


def make_base(family, folder, headed):
    """A model whose outputs have magnitudes around 1, unlike those of the default random weights."""
    sizes = {"pad_token_id": 0} if headed else {}
    sizes |= {"vocab_size": VOCAB, "initializer_range": 0.25, "tie_word_embeddings": family == "gpt2"}
    if family == "llama":
        config = transformers.LlamaConfig(
            hidden_size=24,
            intermediate_size=33,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            **sizes,
        )
        model = transformers.LlamaForCausalLM(config)
    elif family == "gpt2":
        model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(n_embd=24, n_layer=2, n_head=3, n_positions=64, **sizes)
        )
    else:
        config = transformers.BertConfig(
            hidden_size=24,
            intermediate_size=33,
            num_hidden_layers=2,
            num_attention_heads=3,
            max_position_embeddings=64,
            num_labels=CLASSES,
            **sizes,
        )
        model = (transformers.BertModel if headed else transformers.BertForSequenceClassification)(config)
    model.save_pretrained(folder)


def load_base(family, folder, headed):
    if headed:
        torch.manual_seed(3)
        kind = transformers.AutoModelForSequenceClassification
        return kind.from_pretrained(folder, dtype=torch.float32, num_labels=CLASSES).eval()
    kind = transformers.BertForSequenceClassification if family == "bert" else transformers.AutoModelForCausalLM
    return kind.from_pretrained(folder, dtype=torch.float32).eval()


def texts(family, headed):
    ids = torch.randint(1, VOCAB, (3, LENGTH))
    mask = torch.ones_like(ids)
    mask[1, LENGTH - 4 :] = 0
    classify = headed or family == "bert"
    labels = torch.randint(0, CLASSES, (3,)) if classify else ids.masked_fill(mask == 0, -100)
    ids = ids.masked_fill(mask == 0, 0)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def train(model, inputs):
    """Perturbs every trainable tensor, then trains for a few steps, so that AdaLoRA has ranks to choose from."""
    trained = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        for p in trained:
            p.add_(0.1 * torch.randn_like(p))
    optimizer = torch.optim.AdamW(trained, lr=0.05)
    for step in range(1, STEPS + 1):
        model(**inputs).loss.backward()
        optimizer.step()
        if isinstance(model.base_model, peft.AdaLoraModel):
            model.base_model.update_and_allocate(step)
        optimizer.zero_grad()


def save(model, folder, initial):
    if initial is None:
        model.save_pretrained(folder)
    else:
        model.save_pretrained(folder, path_initial_model_for_weight_conversion=str(initial))


def made_by_peft(fresh, config, inputs, folder, convert):
    model = peft.get_peft_model(fresh(), config).eval()
    initial = None
    if convert:
        initial = folder.with_name("initial")
        name = model.peft_config["default"].init_lora_weights
        # As in peft's documentation: what is read back must not be decomposed a second time.
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(initial)
        model.peft_config["default"].init_lora_weights = name
    train(model, inputs)
    save(model, folder, initial)
    return answer(model, inputs)


def answer(model, inputs):
    with torch.no_grad():
        return model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits


class Loran:
    """A single Loran process for all cases."""

    def __init__(self):
        command = [LORAN, "bench", "answers"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)

    def answer(self, model, adapter, texts, *train):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "answers.safetensors"
            request = "\t".join(str(field) for field in (model, adapter, texts, out, *train))
            print(request, file=self.process.stdin, flush=True)
            says = self.process.stdout.readline().strip()
            if says != "ok":
                raise RuntimeError(says or "Loran is gone; run loran bench answers to see why")
            return load_file(out)


def difference(ours, theirs, mask):
    """The largest difference at unmasked tokens, relative to the largest answer."""
    if ours.shape != theirs.shape:
        raise RuntimeError(f"Loran answers {tuple(ours.shape)}, peft {tuple(theirs.shape)}")
    if ours.dim() == 3:
        virtual = torch.ones(mask.shape[0], ours.shape[1] - mask.shape[1])
        shown = torch.cat([virtual, mask], 1).bool()
        ours, theirs = ours[shown], theirs[shown]
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


class Count:
    def __init__(self):
        self.cases, self.failed = 0, 0

    def check(self, title, compare):
        self.cases += 1
        try:
            found = compare()
            right = found <= TOLERANCE
            says = f"{found:.1e}"
        except Exception as e:  # noqa: BLE001 - any error is a failure of this case
            right, says = False, f"{type(e).__name__}: {str(e).strip()}"
        self.failed += not right
        print(f"{title:<48} {says}{'' if right else '   FAILED'}", flush=True)

    def end(self):
        print(f"{self.cases} cases, {self.cases - self.failed} agree, {self.failed} fail")
        return 1 if self.failed or not self.cases else 0


def every_method(count, loran):
    torch.manual_seed(1)
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as temporary:
        for number, (method, family, headed) in enumerate(CASES):
            base = Path(temporary) / (f"{family}-encoder" if headed else family)
            if not base.exists():
                make_base(family, base, headed)

            def fresh():
                return load_base(family, base, headed)

            folder = Path(temporary) / str(number)
            folder.mkdir()
            given = folder / "texts.safetensors"
            inputs = texts(family, headed)
            save_file(inputs, given)
            config = METHODS[method](family)
            config.task_type = "SEQ_CLS" if headed or family == "bert" else "CAUSAL_LM"
            convert = method == "converted to plain lora"
            if convert and family == "bert":
                # peft omits the trained head from the conversion.
                config.task_type = None
            plain = answer(fresh(), inputs)

            def matters(logits):
                if logits.shape == plain.shape and (logits - plain).abs().max() < 0.01 * plain.abs().max():
                    raise RuntimeError("the adapter changes nothing, so that agreement would mean nothing")

            def from_peft():
                theirs = made_by_peft(fresh, config, inputs, folder / "peft", convert)
                matters(theirs)
                return difference(loran.answer(base, folder / "peft", given)["logits"], theirs, inputs["attention_mask"])

            def to_peft():
                untrained = folder / "untrained"
                peft.get_peft_model(fresh(), config).save_pretrained(untrained)
                plainly = ["plain"] if convert else []
                ours = loran.answer(base, untrained, given, folder / "loran", *plainly)["logits"]
                matters(ours)
                model = peft.PeftModel.from_pretrained(fresh(), folder / "loran").eval()
                return difference(ours, answer(model, inputs), inputs["attention_mask"])

            title = f"{family}, {method}{', new head' if headed else ''}"
            count.check(f"{title}, from peft", from_peft)
            count.check(f"{title}, to peft", to_peft)


def encoder(count, loran, model, adapter):
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    given = tokenizer(
        [
            "buy cheap running shoes online",
            "a large and imposing house",
            "the act of making something different, as when the size of a garment is changed to make it fit",
            "salt",
        ],
        padding=True,
        return_tensors="pt",
        return_token_type_ids=False,
    )

    def hidden():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "texts.safetensors"
            save_file(dict(given), file)
            ours = loran.answer(model, adapter, file)["hidden"]
        base = transformers.BertModel.from_pretrained(model).eval()
        with torch.no_grad():
            plain = base(**given).last_hidden_state
            theirs = peft.PeftModel.from_pretrained(base, adapter).eval()(**given).last_hidden_state
        shown = given["attention_mask"].bool()
        print(f"{int(shown.sum())} tokens, hidden states up to {theirs[shown].abs().max():.3f};", end=" ")
        print(f"the adapter changes them by up to {(theirs - plain)[shown].abs().max():.3f}")
        return difference(ours, theirs, given["attention_mask"])

    count.check("hidden states", hidden)


def main():
    if len(sys.argv) not in (1, 3):
        sys.exit(__doc__)
    count, loran = Count(), Loran()
    if len(sys.argv) == 3:
        encoder(count, loran, *sys.argv[1:])
    else:
        every_method(count, loran)
    return count.end()


if __name__ == "__main__":
    sys.exit(main())
