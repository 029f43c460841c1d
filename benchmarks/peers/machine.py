"""Writes the results of a measurement to a file: the figures, the command, and the machine."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

LORAN = Path(__file__).resolve().parents[2] / "loran"


def machine():
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    doctor = subprocess.run([LORAN, "doctor", "--json"], capture_output=True, text=True)
    loran = json.loads(doctor.stdout.splitlines()[-1])
    found = {"cpu": cpu, "cores": os.cpu_count()}
    found |= {name: loran[name] for name in ("jdk", "system", "backend", "bf16", "gpu")}
    return found | {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")}


def keep(path, results):
    script = "benchmarks/peers/" + Path(sys.argv[0]).name
    command = " ".join(["python", script] + [a.replace(str(Path.home()), "~") for a in sys.argv[1:]])
    everything = {"command": command, "machine": machine(), "results": results}
    Path(path).write_text(json.dumps(everything, indent=1) + "\n")
