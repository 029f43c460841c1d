"""Compares the training step of `loran bench step` with PyTorch + Hugging Face peft, alternating in one run.

    python benchmarks/peers/step.py [--methods lora,full] [--dtypes f32,autocast,bf16] [--threads 2] [--rounds 3] [--out FILE]

A Llama-shaped model with random weights: hidden 512, 6 layers, 8 heads, feed-forward 2048, vocabulary 10000, tied head;
8 x 128 random tokens; forward, backward, clipping and AdamW. LoRA r 16, alpha 32, dropout 0.1 on q, k, v, o; AdaLoRA
12 -> 8; 20 virtual tokens. Each round runs both sides once, in separate processes, one after the other; the time of a side is
the median over the rounds of its median step, and a ratio is our time divided by the peer's. "best" is the fastest of the
peer's dtypes.

Requires torch, transformers and peft.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

LORAN = Path(__file__).resolve().parents[2] / "loran"
STEPS = 12
# The defaults of `loran bench step`, which has options of the same names.
SIZES = dict(
    batch=8, seq=128, hidden=512, layers=6, heads=8, kv_heads=0, mlp=2048, vocab=10000, rank=16, steps=STEPS
)


def peer(method, dtype, threads, size):
    import torch
    from peft import AdaLoraConfig, LoraConfig, PrefixTuningConfig, PromptEncoderConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(threads)
    torch.manual_seed(1)
    on_gpu = size.device == "cuda"
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=size.hidden,
            intermediate_size=size.mlp,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.kv_heads or size.heads,
            vocab_size=size.vocab,
            max_position_embeddings=size.seq + 64,
            tie_word_embeddings=True,
            use_cache=False,
        )
    )
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    configs = {
        "full": lambda: None,
        "lora": lambda: LoraConfig(
            r=size.rank, lora_alpha=2 * size.rank, lora_dropout=0.1, target_modules=targets, task_type="CAUSAL_LM"
        ),
        "adalora": lambda: AdaLoraConfig(
            init_r=12,
            target_r=8,
            lora_alpha=32,
            lora_dropout=0.1,
            target_modules=targets,
            task_type="CAUSAL_LM",
            tinit=200,
            tfinal=200,
            deltaT=10,
            total_step=1000,
        ),
        "p-tuning": lambda: PromptEncoderConfig(
            num_virtual_tokens=20, encoder_hidden_size=size.hidden, task_type="CAUSAL_LM"
        ),
        "prefix": lambda: PrefixTuningConfig(num_virtual_tokens=20, task_type="CAUSAL_LM"),
    }
    config = configs[method]()
    if config is not None:
        model = get_peft_model(model, config)
    if dtype == "bf16":
        model = model.to(torch.bfloat16)
    model.to(size.device)
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01)
    ids = torch.randint(0, size.vocab, (size.batch, size.seq), device=size.device)
    mask = torch.ones_like(ids)
    times = []
    for step in range(2 * size.steps):
        start = time.perf_counter()
        with torch.autocast(size.device, torch.bfloat16, enabled=dtype == "autocast"):
            loss = model(input_ids=ids, attention_mask=mask, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if method == "adalora":
            model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
        loss.item()
        if step >= size.steps:
            times.append((time.perf_counter() - start) * 1e3)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if on_gpu:
        peak = torch.cuda.max_memory_reserved() / 2**20
    median = statistics.median(times)
    tokens = size.batch * size.seq / median * 1e3
    print(
        json.dumps(
            {"median_ms": median, "best_ms": min(times), "tokens_per_second": tokens, "peak_memory_mib": peak}
        )
    )


def last_line(command, environment=None):
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.strip().splitlines()[-1])


def sides(method, dtypes, ours, threads):
    """The name and the command of each side."""
    for dtype in dtypes:
        yield f"peft {dtype}", [sys.executable, __file__, "--peer", method, dtype, str(threads)]
    for dtype in ours:
        size = ["--steps", str(STEPS), "--threads", str(threads), "--json"]
        yield f"loran {dtype}", [str(LORAN), "bench", "step", "--method", method, "--dtype", dtype, *size]


def measure(method, dtypes, ours, threads, rounds, java_options):
    environment = dict(os.environ, JDK_JAVA_OPTIONS=java_options)
    results = {}
    for _ in range(rounds):
        for name, command in sides(method, dtypes, ours, threads):
            results.setdefault(name, []).append(last_line(command, environment))
    return {
        name: {key: statistics.median(r[key] for r in runs) for key in ("median_ms", "best_ms", "peak_memory_mib")}
        for name, runs in results.items()
    }


def row(method, threads, result):
    peers = {n: r for n, r in result.items() if n.startswith("peft")}
    best = min(peers, key=lambda n: peers[n]["median_ms"])
    for name, r in result.items():
        text = f"{method:9} {threads} thread{'s' if threads > 1 else ' '} {name:14} {r['median_ms']:8.1f} ms"
        text += f"  {r['peak_memory_mib']:6.0f} MiB"
        if name.startswith("loran"):
            text += f"  {r['median_ms'] / peers[best]['median_ms']:.2f} of {best}"
            if "peft f32" in peers and best != "peft f32":
                text += f", {r['median_ms'] / peers['peft f32']['median_ms']:.2f} of peft f32"
            text += f"; memory {r['peak_memory_mib'] / peers[best]['peak_memory_mib']:.2f}"
        print(text, flush=True)


def main():
    if sys.argv[1:2] == ["--peer"]:
        size = argparse.ArgumentParser()
        size.add_argument("--device", default="cpu")
        for name, value in SIZES.items():
            size.add_argument("--" + name.replace("_", "-"), type=int, default=value)
        peer(sys.argv[2], sys.argv[3], int(sys.argv[4]), size.parse_args(sys.argv[5:]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="lora,adalora,p-tuning,prefix,full")
    parser.add_argument("--dtypes", default="f32,autocast,bf16", help="of the peer")
    parser.add_argument("--ours", default="f32,bf16", help="dtypes of Loran")
    parser.add_argument("--threads", default="2", help="1, 2 or 1,2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--java-options", default="", help="for our side, such as -Xmx64m")
    parser.add_argument("--out", help="a JSON file for the results")
    options = parser.parse_args()
    results = []
    for threads in map(int, options.threads.split(",")):
        for method in options.methods.split(","):
            result = measure(
                method,
                options.dtypes.split(","),
                options.ours.split(","),
                threads,
                options.rounds,
                options.java_options,
            )
            row(method, threads, result)
            results.append({"method": method, "threads": threads, "sides": result})
    if options.out:
        from machine import keep

        keep(options.out, results)


if __name__ == "__main__":
    main()
