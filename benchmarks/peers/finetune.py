"""Compares a whole fine-tuning run of `loran train` with PyTorch + Hugging Face peft, alternating: time and accuracy.

    python benchmarks/peers/finetune.py MODEL [--rows 2000] [--epochs 3] [--seeds 1,2,3] [--out FILE]

MODEL is the folder of a BERT-shaped encoder (the launcher keeps the catalogue's in ~/.cache/loran). The rows are those that
ship with Loran: definitions of nouns, ten classes, 1,000 held out. LoRA r 8, alpha 16, dropout 0.05 on query and value, mean
pooling and a linear head; batches of 32 rows of similar length, at most 96 tokens, padded to the longest; AdamW, weight decay
0.01, 20 steps of warm-up, then linear decay; learning rate 5e-4, five times that for the head; the model's own dropouts are off
on both sides. The time is that of the training loop only; the accuracy is that of the last epoch.

Requires torch, transformers, peft and tokenizers.
"""

import argparse
import gzip
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROWS = ROOT / "peft/src/main/resources/dev/loran/peft/data/wordnet-nouns.jsonl.gz"
BATCH, LENGTH, RATE, HEAD_RATE, WARM_UP, HELD_OUT = 32, 96, 5e-4, 2.5e-3, 20, 1000


def read(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def batches(rows, rng=None):
    """Batches rows of similar length, as Loran does: windows of 50 batches are sorted, then the batches are shuffled."""
    order = list(range(len(rows)))
    if rng:
        rng.shuffle(order)
    window = 50 * BATCH
    made = []
    for start in range(0, len(order), window):
        part = sorted(order[start : start + window], key=lambda i: len(rows[i][0]))
        made += [part[i : i + BATCH] for i in range(0, len(part), BATCH)]
    if rng:
        rng.shuffle(made)
    return made


def peer(folder, train_file, eval_file, dtype, threads, epochs, seed):
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    config = BertConfig.from_pretrained(folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = BertModel.from_pretrained(folder, config=config, add_pooling_layer=False)
    model = get_peft_model(
        model, LoraConfig(r=8, lora_alpha=16, lora_dropout=0.05, target_modules=["query", "value"])
    )
    if dtype == "bf16":
        model = model.to(torch.bfloat16)
    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.no_padding()
    labels = sorted({r["label"] for r in read(train_file)})
    sets = [
        [(tokenizer.encode(r["text"]).ids, labels.index(r["label"])) for r in read(path)]
        for path in (train_file, eval_file)
    ]
    head = torch.nn.Linear(config.hidden_size, len(labels))

    def logits(rows):
        width = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows])
        mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows])
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "autocast"):
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        weight = mask.unsqueeze(-1).float()
        return head((hidden * weight).sum(1) / weight.sum(1))

    adapters = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": adapters, "lr": RATE}, {"params": head.parameters(), "lr": HEAD_RATE}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    steps = epochs * -(-len(sets[0]) // BATCH)
    factor = lambda s: (s + 1) / WARM_UP if s < WARM_UP else (steps - s) / (steps - WARM_UP)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    parameters = adapters + list(head.parameters())
    rng = random.Random(seed)
    seconds = 0
    for _ in range(epochs):
        model.train()
        start = time.perf_counter()
        for batch in batches(sets[0], rng):
            rows = [sets[0][i] for i in batch]
            loss = torch.nn.functional.cross_entropy(logits(rows), torch.tensor([label for _, label in rows]))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            loss.item()
        seconds += time.perf_counter() - start
    model.eval()
    right = 0
    with torch.no_grad():
        for batch in batches(sets[1]):
            rows = [sets[1][i] for i in batch]
            right += (logits(rows).argmax(1) == torch.tensor([label for _, label in rows])).sum().item()
    print(json.dumps({"seconds": seconds, "accuracy": right / len(sets[1])}))


def last_line(command):
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    if sys.argv[1:2] == ["--peer"]:
        folder, train_file, eval_file, dtype, *numbers = sys.argv[2:]
        peer(folder, train_file, eval_file, dtype, *map(int, numbers))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dtypes", default="f32,autocast,bf16", help="of the peer")
    parser.add_argument("--ours", default="f32,bf16", help="dtypes of Loran")
    parser.add_argument("--out", help="a JSON file for the results")
    options = parser.parse_args()
    lines = gzip.decompress(ROWS.read_bytes()).decode().splitlines(keepends=True)
    results = {}
    with tempfile.TemporaryDirectory() as work:
        train_file, eval_file = Path(work, "train.jsonl"), Path(work, "eval.jsonl")
        train_file.write_text("".join(lines[: options.rows]))
        eval_file.write_text("".join(lines[-HELD_OUT:]))
        for seed in options.seeds.split(","):
            for dtype in options.dtypes.split(","):
                numbers = [str(n) for n in (options.threads, options.epochs, seed)]
                command = [sys.executable, __file__, "--peer", options.model, str(train_file), str(eval_file), dtype]
                results.setdefault(f"peft {dtype}", []).append(last_line(command + numbers))
            for dtype in options.ours.split(","):
                command = [str(ROOT / "loran"), "train", "--model", options.model, "--task", "classify", "--method", "lora"]
                command += ["--train", str(train_file), "--eval", str(eval_file), "--out", str(Path(work, dtype + seed))]
                command += ["--epochs", str(options.epochs), "--batch-size", str(BATCH), "--max-length", str(LENGTH)]
                command += ["--lr", str(RATE), "--warmup", str(WARM_UP), "--seed", seed, "--dtype", dtype]
                command += ["--threads", str(options.threads), "--save-steps", "0", "--json"]
                run = last_line(command)
                results.setdefault(f"loran {dtype}", []).append(
                    {"seconds": run["seconds"], "accuracy": run["eval_accuracy"]}
                )
    middle = {
        name: {key: statistics.median(run[key] for run in runs) for key in ("seconds", "accuracy")}
        for name, runs in results.items()
    }
    peers = {name: r["seconds"] for name, r in middle.items() if name.startswith("peft")}
    best = min(peers, key=peers.get)
    for name, r in middle.items():
        ratio = f"  {r['seconds'] / peers[best]:.2f} of {best}'s time" if name not in peers else ""
        print(f"{name:14} {r['seconds']:7.1f} s  accuracy {r['accuracy']:.3f}{ratio}")
    if options.out:
        from machine import keep

        keep(options.out, {"medians": middle, "runs": results})


if __name__ == "__main__":
    main()
