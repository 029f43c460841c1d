"""Creates adapters with a classification head, as peft makes them on AutoModelForSequenceClassification, for FamilyHeadTest.

    python benchmarks/peers/seqcls.py peft/src/test/resources/fixtures/seqcls

For each family, writes a tiny random model and, next to it, FAMILY-adapter: a LoRA of the task type SEQ_CLS with perturbed
weights, and expected.safetensors with ids, mask (some texts end with the padding token, masked or not) and logits. For BERT,
also writes pairs.safetensors: the same ids with token types, and the logits of model and adapter. Requires torch, transformers,
peft and safetensors; none of this is needed to build or test Loran.
"""

import sys
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import save_file

CLASSES = 3
TARGETS = {"llama": ["q_proj", "v_proj"], "gpt2": ["c_attn"], "bert": ["query", "value"]}
IDS = torch.tensor([[5, 9, 17, 3, 20, 11], [4, 6, 8, 0, 0, 0], [7, 28, 0, 13, 0, 0]])
TYPES = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]])


def make_base(family):
    sizes = {"vocab_size": 29, "initializer_range": 0.25, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if family == "gpt2":
        config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, n_positions=16, **sizes)
        return transformers.GPT2LMHeadModel(config)
    sizes |= {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"max_position_embeddings": 16}
    if family == "llama":
        config = transformers.LlamaConfig(num_key_value_heads=1, tie_word_embeddings=False, **sizes)
        return transformers.LlamaForCausalLM(config)
    return transformers.BertModel(transformers.BertConfig(**sizes))


def main(out):
    torch.manual_seed(5)
    for family, targets in TARGETS.items():
        make_base(family).save_pretrained(out / family)
        (out / family / "generation_config.json").unlink(missing_ok=True)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(out / family, num_labels=CLASSES)
        config = peft.LoraConfig(task_type="SEQ_CLS", r=2, lora_alpha=4, target_modules=targets)
        model = peft.get_peft_model(model, config).eval()
        # The location of the fixtures does not belong in them.
        model.peft_config["default"].base_model_name_or_path = None
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad:
                    p.add_(0.4 * torch.randn_like(p))
            logits = model(input_ids=IDS, attention_mask=MASK).logits
        folder = out / f"{family}-adapter"
        model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        tensors = {"input_ids": IDS.int(), "attention_mask": MASK.int(), "logits": logits.contiguous()}
        save_file(tensors, folder / "expected.safetensors")
        if family == "bert":
            with torch.no_grad():
                logits = model(input_ids=IDS, attention_mask=MASK, token_type_ids=TYPES).logits
            tensors |= {"token_type_ids": TYPES.int(), "logits": logits.contiguous()}
            save_file(tensors, folder / "pairs.safetensors")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
