"""Compares the matrix products of `loran bench gemm` with PyTorch's, alternating in one run.

    python benchmarks/peers/gemm.py [--products cubes,skinny,frozen,rows] [--threads 1,2] [--rounds 3] [--out FILE]

x (m, k) times the transposed w (n, k). cubes: 512, 1024 and 2048 in F32, both operands fresh; skinny: LoRA's shapes; frozen:
1024 x 512 x 2048 with a weight prepared once, in BF16; rows: 1 and 4 rows of x, as in generation, with a frozen weight in F32
and BF16. The peer is `torch.mm` in F32 and `torch.nn.functional.linear` on BF16 tensors otherwise. Each round runs both sides
once, in separate processes, one after the other; the time of a side is the median over the rounds of its median call, and a
ratio says how many times as fast as the peer ours is. For rows, the bytes of the weight read per second are printed too.

Requires torch.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

LORAN = Path(__file__).resolve().parents[2] / "loran"
PRODUCTS = {
    "cubes": [(512, 512, 512, "f32", False), (1024, 1024, 1024, "f32", False), (2048, 2048, 2048, "f32", False)],
    "skinny": [(2048, 16, 2048, "f32", False), (2048, 2048, 16, "f32", False)],
    "frozen": [(1024, 512, 2048, "f32", True), (1024, 512, 2048, "bf16", True)],
    "rows": [(m, 4096, 4096, dtype, True) for m in (1, 4) for dtype in ("f32", "bf16")],
}
SECONDS, WARM_UP = 1.0, 0.5


def peer(m, n, k, dtype, threads):
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(1)
    kind = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    x = torch.rand(m, k).to(kind)
    w = torch.rand(n, k).to(kind)
    y = torch.empty(m, n, dtype=kind)
    if dtype == "f32":
        call = lambda: torch.mm(x, w.t(), out=y)
    else:
        call = lambda: torch.nn.functional.linear(x, w)
    times = []
    with torch.inference_mode():
        start = time.perf_counter()
        while (now := time.perf_counter()) < start + WARM_UP + SECONDS or len(times) < 10:
            call()
            if now > start + WARM_UP:
                times.append(1e3 * (time.perf_counter() - now))
    print(json.dumps({"median_ms": statistics.median(times), "best_ms": min(times)}))


def last_line(command):
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(m, n, k, dtype, prepared, threads, rounds):
    sizes = ["--m", str(m), "--n", str(n), "--k", str(k), "--dtype", dtype, "--threads", str(threads)]
    ours = [str(LORAN), "bench", "gemm", *sizes, "--repeats", "50", "--json"] + ["--prepared"] * prepared
    theirs = [sys.executable, __file__, "--peer", str(m), str(n), str(k), dtype, str(threads)]
    runs = [(last_line(ours), last_line(theirs)) for _ in range(rounds)]
    loran, torch = (statistics.median(run[side]["median_ms"] for run in runs) for side in (0, 1))
    return {
        "m": m,
        "n": n,
        "k": k,
        "dtype": dtype,
        "prepared": prepared,
        "threads": threads,
        "loran_ms": loran,
        "torch_ms": torch,
        "loran_gflops": 2e-6 * m * n * k / loran,
        "ratio": torch / loran,
    }


def row(r):
    text = f"{r['m']:5} x {r['n']:4} x {r['k']:4} {r['dtype']:4} {'frozen' if r['prepared'] else 'fresh ':6}"
    text += f" {r['threads']} thread{'s' if r['threads'] > 1 else ' '}"
    text += f"  loran {r['loran_ms']:8.3f} ms {r['loran_gflops']:7.1f} GFLOP/s  torch {r['torch_ms']:8.3f} ms"
    if r["m"] <= 4:
        text += f"  {(4 if r['dtype'] == 'f32' else 2) * r['n'] * r['k'] / r['loran_ms'] / 1e6:5.1f} GB/s"
    print(f"{text}  {r['ratio']:.2f} times as fast", flush=True)


def main():
    if sys.argv[1:2] == ["--peer"]:
        m, n, k, dtype, threads = sys.argv[2:]
        peer(int(m), int(n), int(k), dtype, int(threads))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", default="cubes,skinny,frozen,rows")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", help="a JSON file for the results")
    options = parser.parse_args()
    results = []
    for name in options.products.split(","):
        group = []
        for threads in map(int, options.threads.split(",")):
            for product in PRODUCTS[name]:
                group.append(measure(*product, threads, options.rounds))
                row(group[-1])
        mean = statistics.geometric_mean(r["ratio"] for r in group)
        worst = min(r["ratio"] for r in group)
        print(f"{name}: geometric mean {mean:.2f}, worst {worst:.2f}", flush=True)
        results += group
    if options.out:
        from machine import keep

        keep(options.out, results)


if __name__ == "__main__":
    main()
