#!/bin/sh
# Everything that needs a GPU, in one command: the CUDA tests on the device itself, then whole training steps beside the
# CPU. Writes OUT/gpu.json and prints a table.
#
#   benchmarks/gpu.sh [OUT]
#
# Needs an NVIDIA driver 525 or newer, cuBLAS 12 or 13, a GPU of compute capability 8.0 or more, Maven and a JDK 25.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-$root/benchmarks/target/gpu}
mkdir -p "$out"
cd "$root"

./loran doctor --json >"$out/doctor.log" 2>&1
gpu=$(tail -n 1 "$out/doctor.log" | sed -n 's/.*"gpu":"\([^"]*\)".*/\1/p')
case $gpu in
    ready:*) echo "GPU $gpu" ;;
    *)
        echo "benchmarks/gpu.sh: $gpu" >&2
        exit 2
        ;;
esac

echo "CUDA tests on the GPU …"
mvn -q -B -ntp -pl engine,kernels,peft -Dtest='Cuda*Test' -Dsurefire.failIfNoSpecifiedTests=false \
    -Dloran.test.gpu=true test >"$out/tests.log" 2>&1 || {
    tail -n 40 "$out/tests.log"
    echo "benchmarks/gpu.sh: the tests failed; all of it is in $out/tests.log" >&2
    exit 1
}

# Name, then the options of `bench step`: the size of the CPU's figures, and a launch-bound and a compute-bound one.
printf '{"gpu":"%s","steps":[' "$gpu" >"$out/gpu.json"
printf '%-34s %-5s %12s %12s\n' step device 'median ms' tokens/s
comma=
step() {
    name=$1
    shift
    for device in cuda cpu; do
        ./loran bench step --json --device $device "$@" >"$out/step.log" 2>&1
        line=$(tail -n 1 "$out/step.log")
        printf '%s{"name":"%s","device":"%s","result":%s}' "$comma" "$name" $device "$line" >>"$out/gpu.json"
        comma=,
        printf '%-34s %-5s %12s %12s\n' "$name" $device \
            "$(echo "$line" | sed 's/.*"median_ms":\([0-9.]*\).*/\1/')" \
            "$(echo "$line" | sed 's/.*"tokens_per_second":\([0-9.]*\).*/\1/')"
    done
}
step 'lora, 512 wide, 6 layers, 8 x 128' --method lora
step 'adalora, the same' --method adalora
step 'lora, 256 wide, 2 layers, 4 x 32' --method lora --hidden 256 --layers 2 --heads 4 --mlp 1024 --batch 4 --seq 32
step 'lora, 2048 wide, 4 layers, 8 x 512' \
    --method lora --hidden 2048 --layers 4 --heads 32 --mlp 8192 --batch 8 --seq 512 --vocab 32000 --steps 3
echo ']}' >>"$out/gpu.json"
echo "$out/gpu.json"
