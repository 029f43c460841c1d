"""Loads an adapter that Loran saved with the real peft and compares the hidden states of a BERT encoder.

    python benchmarks/peers/hidden_states.py MODEL_FOLDER ADAPTER_FOLDER

Needs torch, transformers, peft and safetensors. Ends with status 0 if no hidden state of a real token differs by more
than 1e-4.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import BertModel

LORAN = Path(__file__).resolve().parents[2] / "loran"
TEXTS = [
    "buy cheap running shoes online",
    "a large and imposing house",
    "the act of making something different, as when the size of a garment is changed to make it fit",
    "salt",
]


def loran(model, adapter):
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "hidden.safetensors"
        subprocess.run([LORAN, "bench", "hidden", model, adapter, out, *TEXTS], check=True)
        return load_file(out)


def main(model, adapter):
    ours = loran(model, adapter)
    ids, mask = ours["input_ids"].long(), ours["attention_mask"].long()
    base = BertModel.from_pretrained(model).eval()
    with torch.no_grad():
        plain = base(input_ids=ids, attention_mask=mask).last_hidden_state
        theirs = PeftModel.from_pretrained(base, adapter).eval()(input_ids=ids, attention_mask=mask).last_hidden_state
    shown = mask.bool()
    difference = (theirs - ours["hidden"])[shown].abs().max().item()
    print(f"{int(shown.sum())} tokens, hidden states up to {theirs[shown].abs().max().item():.3f}")
    print(f"the adapter changes them by up to {(theirs - plain)[shown].abs().max().item():.3f}")
    print(f"largest difference between peft and Loran: {difference:.2e}")
    return 0 if difference <= 1e-4 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
