"""Golden answers of Hugging Face peft's add_weighted_adapter for WeightedAdapterTest.

    python benchmarks/peers/weighted.py peft/src/test/resources/fixtures

Reads hf/gpt2/base and the inputs of hf/gpt2/lora; writes weighted/first, weighted/second (two adapters, the second on
fewer layers) and weighted/logits.safetensors: the logits of the last position for each combination, in double precision.
Requires torch, transformers and peft; none of this is needed to build or test Loran.
"""

import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

WEIGHTS = [0.7, -0.4]
# Random pruning at a density of 1 keeps everything, so that the rest of DARE can be compared.
COMBINATIONS = {
    "linear": {},
    "cat": {},
    "svd": {"svd_rank": 2},
    "ties": {"density": 0.5},
    "ties_svd": {"density": 0.5, "svd_rank": 4},
    "dare_linear": {"density": 1.0},
    "dare_ties": {"density": 1.0},
    "dare_linear_svd": {"density": 1.0, "svd_rank": 4},
    "dare_ties_svd": {"density": 1.0, "svd_rank": 4},
    "magnitude_prune": {"density": 0.5},
    "magnitude_prune_svd": {"density": 0.5, "svd_rank": 4},
}


def main(fixtures):
    torch.manual_seed(3)
    ids = load_file(fixtures / "hf/gpt2/lora/io.safetensors")["input_ids"]
    base = AutoModelForCausalLM.from_pretrained(fixtures / "hf/gpt2/base", dtype=torch.float32)
    options = {"r": 3, "init_lora_weights": False, "task_type": "CAUSAL_LM"}
    first = LoraConfig(**options, lora_alpha=5, target_modules=["c_attn", "wte"])
    second = LoraConfig(**options, lora_alpha=2, target_modules=["c_attn"])
    model = get_peft_model(base, first, adapter_name="first").eval()
    model.add_adapter("second", second)
    model.save_pretrained(fixtures / "weighted", selected_adapters=["first", "second"], save_embedding_layers=False)
    model.double()
    logits = {}
    for name, options in COMBINATIONS.items():
        model.add_weighted_adapter(["first", "second"], WEIGHTS, name, combination_type=name, **options)
        model.set_adapter(name)
        with torch.no_grad():
            logits[name] = model(input_ids=ids).logits[:, -1].contiguous()
        assert logits[name].dtype == torch.float64
    save_file(logits, fixtures / "weighted/logits.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
