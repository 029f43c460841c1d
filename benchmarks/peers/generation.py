"""Golden answers of Hugging Face's generate, and its sampling distributions, for GenerationParityTest.

    python generation.py peft/src/test/resources/fixtures/hf peft/src/test/resources/fixtures/generation.json

Reads FAMILY/base and FAMILY/METHOD/adapter_final. Requires torch, transformers and peft; none of this is needed to build or
test Loran.
"""

import json
import sys
from pathlib import Path

import peft
import torch
import transformers
from transformers.generation import logits_process as processors

NEW_TOKENS = 24
METHODS = ["base", "lora", "dora", "adalora", "ia3", "prefix", "prefix_projection", "prompt", "p_tuning_mlp"]
# Answers must not depend on rounding: the minimum lead of the chosen token's logit over the next one.
LEAST_LEAD = 2e-4


def model_of(folder, family, method):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / family / "base", dtype=torch.float32)
    adapted = model if method == "base" else peft.PeftModel.from_pretrained(model, folder / family / method / "adapter_final")
    # Gives every answer NEW_TOKENS tokens: without an end token in its own options, generate uses the model's.
    model.generation_config.eos_token_id = None
    return adapted.eval()


def answer(model, prompts, penalty):
    """The new ids for each prompt; shorter prompts are padded on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[1] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    config = transformers.GenerationConfig(
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        repetition_penalty=penalty,
        pad_token_id=1,
        output_scores=True,
        return_dict_in_generate=True,
    )
    out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    best = torch.stack(out.scores).topk(2).values
    assert len(out.scores) == NEW_TOKENS
    return out.sequences[:, -NEW_TOKENS:].tolist(), (best[..., 0] - best[..., 1]).min().item()


def prompts_of(seed):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 96, (n,), generator=draw).tolist() for n in (7, 1, 12)]


def case(folder, family, method, penalty):
    model = model_of(folder, family, method)
    for seed in range(1000):
        prompts = prompts_of(seed)
        # Padding counts as text for the penalty, and shifts the text after learned prefixes: these run one by one.
        together = penalty == 1 and method in ("base", "lora", "dora", "adalora", "ia3")
        runs = [answer(model, batch, penalty) for batch in ([prompts] if together else [[p] for p in prompts])]
        lead = min(r[1] for r in runs)
        if lead > LEAST_LEAD:
            answers = [ids for r in runs for ids in r[0]]
            print(f"{family}/{method} penalty {penalty}: seed {seed}, lead {lead:.1e}, {answers[0][:6]}")
            return {
                "family": family,
                "method": method,
                "repetition_penalty": penalty,
                "prompts": prompts,
                "answers": answers,
            }
    raise SystemExit(f"{family}/{method}: no prompts whose answers rounding leaves alone")


def distribution(seed, penalty, temperature, top_k, top_p, encoder_penalty=1.0):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 33, generator=draw) * 2
    seen = torch.randint(0, 33, (1, 7), generator=draw)
    prompt = seen[:, :4]
    scores = processors.EncoderRepetitionPenaltyLogitsProcessor(encoder_penalty, prompt)(seen, logits)
    scores = processors.RepetitionPenaltyLogitsProcessor(penalty)(seen, scores)
    scores = processors.TemperatureLogitsWarper(temperature)(seen, scores)
    if top_k > 0:
        scores = processors.TopKLogitsWarper(top_k)(seen, scores)
    if top_p < 1:
        scores = processors.TopPLogitsWarper(top_p)(seen, scores)
    return {
        "repetition_penalty": penalty,
        "encoder_repetition_penalty": encoder_penalty,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "logits": logits[0].tolist(),
        "seen": seen[0].tolist(),
        "prompt": prompt[0].tolist(),
        "probabilities": scores.double().softmax(-1)[0].tolist(),
    }


def main():
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    cases = [
        case(folder, family, method, penalty)
        for family in ("llama", "gpt2")
        for method in METHODS
        for penalty in ((1.0, 1.3) if method in ("base", "prefix") else (1.0,))
    ]
    settings = [
        (1.0, 1.0, 0, 1.0),
        (1.0, 0.7, 5, 1.0),
        (1.0, 1.5, 0, 0.8),
        (1.3, 0.9, 7, 0.6),
        (0.8, 1.0, 0, 0.05),
        (1.2, 2.0, 100, 0.95),
        (1.0, 1.0, 0, 1.0, 1.15),
        (1.3, 0.8, 20, 0.9, 1.5),
        (1.0, 1.0, 0, 1.0, 0.7),
    ]
    distributions = [distribution(seed, *s) for seed, s in enumerate(settings)]
    facts = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    text = json.dumps({**facts, "cases": cases, "distributions": distributions})
    # One case per line: compact, and a diff shows which one changed.
    out.write_text(text.replace('{"family"', '\n{"family"').replace('{"repetition_penalty"', '\n{"repetition_penalty"') + "\n")


main()
