#!/bin/sh
# Everything that needs a GPU, in one command: the CUDA tests on the device itself, some of them under compute-sanitizer,
# every kernel compared with its lower bound, and whole training steps compared with PyTorch and peft if Python has them.
# Writes OUT/gpu.json and prints tables.
#
#   benchmarks/gpu.sh [OUT]          on a machine with the GPU, Maven and a JDK 25
#   benchmarks/gpu.sh --pack [FILE]  on any machine with Maven and a JDK 25: writes an archive (about 30 MB) for a machine
#                                    that has neither; unpack it there with tar -xJf and run the gpu.sh inside
#
# Requires NVIDIA driver 525 or newer, cuBLAS 12 or 13, and a GPU of compute capability 8.0 or higher. To try the script
# itself without a GPU, set LORAN_STANDIN=/path/to/kernels/target/standin; sizes are then tiny and figures meaningless.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

# ---- The runtime: the packed one next to this script, or the one that Maven builds -----------------------------------
if [ -x "$here/runtime/bin/java" ]; then
    packed=$here
else
    root=$(dirname "$here")
    packed=$root/benchmarks/target/gpu-pack
    # Strips a jar of the native libraries of other systems and of those that no test here loads, and stores it
    # uncompressed: the archive compresses everything together, to half the size.
    slim() { # JAR
        rm -rf "$packed/jar"
        mkdir "$packed/jar"
        (cd "$packed/jar" && "$jdk/bin/jar" -xf "$1")
        find "$packed/jar" -path '*/native/lib/*/*' ! -path '*/linux-x86_64/*' -type f -delete
        find "$packed/jar" -path '*/com/sun/jna/*' -name '*jnidispatch*' ! -path '*/linux-x86-64/*' -type f -delete
        rm -f "$packed"/jar/lib/libJNv*.so "$packed"/jar/lib/libJCublas-*.so
        "$jdk/bin/jar" -c -0 -f "$1" -m "$packed/jar/META-INF/MANIFEST.MF" -C "$packed/jar" .
        rm -rf "$packed/jar"
    }
    # Collects everything in one folder, the contents of the archive.
    pack() {
        jdk=$(grep -lsE '^JAVA_VERSION="(2[5-9]|[3-9][0-9])' "${JAVA_HOME:-/nowhere}/release" /usr/lib/jvm/*/release |
            head -n 1 | xargs -r dirname)
        [ -n "$jdk" ] || { echo "benchmarks/gpu.sh: needs a JDK 25 or newer" >&2; exit 2; }
        echo "building …"
        # Build the jars and list the tests' libraries in one Maven run: only then does a module find the jar of another.
        rm -rf "$root/benchmarks/target/test-paths"
        (cd "$root" && mvn -q -B -ntp -DskipTests -Dspotless.check.skip=true -pl engine,kernels,peft,benchmarks \
            package dependency:build-classpath "-Dmdep.outputFile=$root/benchmarks/target/test-paths/\${project.artifactId}")
        rm -rf "$packed"
        mkdir -p "$packed/lib" "$packed/test-lib" "$packed/kernels" "$packed/peft" "$packed/peers"
        cp "$root"/benchmarks/target/lib/*.jar "$packed/lib"
        # The peer of the CPU benchmarks takes most of the space and is not used here.
        rm -f "$packed"/lib/org.bytedeco.*
        for module in engine kernels peft; do
            [ ! -d "$root/$module/target/test-classes" ] || cp -r "$root/$module/target/test-classes" "$packed/$module-tests"
        done
        rm -rf "$packed/peft-tests/fixtures"
        sed 's/:/\n/g' "$root"/benchmarks/target/test-paths/* |
            grep -E '/(junit|opentest4j|assertj|byte-buddy|jspecify)-[^/]*\.jar$' | sort -u |
            while read -r jar; do cp "$jar" "$packed/test-lib"; done
        for jar in "$packed"/lib/*.jar "$packed"/test-lib/*.jar; do slim "$jar"; done
        cp "$root/benchmarks/gpu.sh" "$packed/"
        cp "$root/benchmarks/peers/step.py" "$packed/peers/"
        sed -n 's:.*<loran.jvmFlags>\(.*\)</loran.jvmFlags>.*:\1:p' "$root/pom.xml" >"$packed/jvm-flags"
        "$jdk/bin/jlink" --output "$packed/runtime" --strip-debug --no-header-files --no-man-pages --compress=zip-0 \
            --add-modules java.base,java.logging,java.management,java.sql,java.xml,jdk.incubator.vector,jdk.management,jdk.unsupported
    }
    if [ "${1-}" = --pack ]; then
        file=${2:-$root/benchmarks/target/gpu.tar.xz}
        pack
        tar -C "$(dirname "$packed")" -cJf "$file" "$(basename "$packed")"
        ls -lh "$file"
        exit 0
    fi
    pack
fi
out=${1:-$PWD/gpu}
mkdir -p "$out"
out=$(cd "$out" && pwd)
standin=${LORAN_STANDIN-}
[ -z "$standin" ] || standin=$(cd "$standin" && pwd)

java=$packed/runtime/bin/java
flags=$(cat "$packed/jvm-flags")
loran() { # MAIN ARGUMENTS…
    # shellcheck disable=SC2086 # the flags are separate words
    "$java" $flags ${standin:+"-Dloran.standin=$standin"} -cp "$packed/lib/*" "$@"
}

# ---- The device -------------------------------------------------------------------------------------------------------
loran dev.loran.peft.cli.Main doctor --json >"$out/doctor.log" 2>&1 || true
gpu=$(tail -n 1 "$out/doctor.log" | sed -n 's/.*"gpu":"\([^"]*\)".*/\1/p')
case $gpu${standin:+ready:} in
    ready:* | *ready:) ;;
    *)
        echo "benchmarks/gpu.sh: $gpu" >&2
        exit 2
        ;;
esac
[ -z "$standin" ] || gpu="the CPU stand-in, which is no GPU: no figure here means anything"
echo "$gpu"

# ---- The tests, on the device itself --------------------------------------------------------------------------------
tests() { # MODULE COMMAND-PREFIX CLASSES…
    module=$1 prefix=$2
    shift 2
    if [ -n "$standin" ]; then
        mkdir -p "$packed/kernels/target"
        ln -sfn "$standin" "$packed/kernels/target/standin"
        where=
    else
        where=-Dloran.test.gpu=true
    fi
    # shellcheck disable=SC2086
    (cd "$packed/$module" && $prefix "$java" $flags $where \
        -cp "$packed/$module-tests:$packed/kernels-tests:$packed/engine-tests:$packed/lib/*:$packed/test-lib/*" \
        dev.loran.kernels.cuda.RunTests "$@")
}
kernels_tests='dev.loran.kernels.cuda.CudaMemoryTest dev.loran.kernels.cuda.CudaReplayTest
    dev.loran.kernels.cuda.CudaOpCasesTest'
peft_tests='dev.loran.peft.tuner.CudaMethodsTest dev.loran.peft.tuner.CudaNarrowModelTest
    dev.loran.peft.train.CudaTrainerTest'
echo "tests …"
failed=
# shellcheck disable=SC2086
tests kernels '' $kernels_tests >"$out/tests.log" 2>&1 || failed=1
# shellcheck disable=SC2086
tests peft '' $peft_tests >>"$out/tests.log" 2>&1 || failed=1
grep '^tests: ' "$out/tests.log" || true
if [ -n "$failed" ]; then
    grep '^FAILED' "$out/tests.log" || tail -n 40 "$out/tests.log"
    echo "benchmarks/gpu.sh: tests failed; all of it is in $out/tests.log. The figures follow all the same" >&2
fi
passed=$(sed -n 's/^tests: \([0-9]*\) passed.*/\1/p' "$out/tests.log" | paste -sd+ | sed 's/$/+0/')
passed=$(($passed))
sanitizer=absent
if [ -z "$standin" ] && command -v compute-sanitizer >/dev/null; then
    sanitizer=clean
    tests kernels 'compute-sanitizer --tool memcheck --error-exitcode 9' dev.loran.kernels.cuda.CudaReplayTest \
        >"$out/sanitizer.log" 2>&1 || sanitizer=failed
fi
echo "compute-sanitizer: $sanitizer"

# ---- Each kernel ------------------------------------------------------------------------------------------------------
sizes=
[ -z "$standin" ] || sizes='--tokens 64 --seq 32 --hidden 64 --vocab 100 --rank 4 --parameters 6400'
echo "kernels …"
# shellcheck disable=SC2086
loran dev.loran.benchmarks.Main gpu --json $sizes >"$out/kernels.log" 2>"$out/kernels.err" || failed=1
sed '$d' "$out/kernels.log"
kernels=$(tail -n 1 "$out/kernels.log")
case $kernels in '{'*) ;; *) kernels=null ;; esac

# ---- Whole steps, alternating between ours and the peer's -------------------------------------------------------------
python=$(command -v python3 || command -v python || true)
[ -z "$python" ] || "$python" -c 'import torch, transformers, peft' 2>/dev/null || python=
device=cuda
[ -z "$standin" ] || device=cpu
[ -n "$python" ] || echo "no Python with torch, transformers and peft: steps without a peer"
printf '\n%-40s %-12s %12s %12s %12s\n' step side 'median ms' tokens/s 'device MiB'
: >"$out/steps"
row() { # NAME SIDE JSON
    case $3 in
        '{'*) ;;
        *)
            printf '%-40s %-12s %12s\n' "$1" "$2" failed
            return 1
            ;;
    esac
    printf '{"name":"%s","side":"%s","result":%s}\n' "$1" "$2" "$3" >>"$out/steps"
    printf '%-40s %-12s %12s %12s %12s\n' "$1" "$2" "$(field median_ms "$3")" "$(field tokens_per_second "$3")" \
        "$(field peak_memory_mib "$3")"
}
field() { echo "$2" | sed -n "s/.*\"$1\": *\([0-9.]*\).*/\1/p"; }
step() { # NAME METHOD DTYPE PEER-DTYPE SIZES…
    name=$1 method=$2 dtype=$3 peer=$4
    shift 4
    line=$(loran dev.loran.benchmarks.Main step --json --device cuda --method "$method" --dtype "$dtype" "$@" \
        2>>"$out/steps.err" | tail -n 1) || true
    row "$name" "loran $dtype" "$line" || failed=1
    [ -n "$python" ] || return 0
    line=$("$python" "$packed/peers/step.py" --peer "$method" "$peer" 2 --device $device "$@" 2>>"$out/steps.err" |
        tail -n 1) || true
    # A failure of the peer does not count as ours.
    row "$name" "peft $peer" "$line" || true
}
: >"$out/steps.err"
if [ -n "$standin" ]; then
    for dtype in f32 bf16; do
        step 'lora, tiny' lora $dtype $dtype --hidden 16 --layers 1 --heads 2 --kv-heads 1 --mlp 16 --vocab 32 --batch 2 --seq 8 --steps 2
    done
else
    step 'lora, 512 wide, 6 layers, 8 x 128' lora f32 f32
    step 'lora, 512 wide, 6 layers, 8 x 128' lora bf16 bf16
    step 'adalora, the same' adalora f32 f32
    step 'full, the same' full f32 f32
    step 'lora, 256 wide, 2 layers, 4 x 32' lora f32 f32 --hidden 256 --layers 2 --heads 4 --mlp 1024 --batch 4 --seq 32
    step 'lora, Llama 1B, 8 x 1024' lora bf16 bf16 --hidden 2048 --layers 16 --heads 32 --kv-heads 8 --mlp 8192 \
        --vocab 128256 --batch 8 --seq 1024 --rank 16 --steps 5
fi
[ -z "$failed" ] || echo "benchmarks/gpu.sh: something failed; the logs are in $out" >&2
printf '{"gpu":"%s","failed":%s,"tests_passed":%s,"compute_sanitizer":"%s","kernels":%s,"steps":[%s]}\n' "$gpu" \
    "$([ -z "$failed" ] && echo false || echo true)" "$passed" "$sanitizer" "$kernels" "$(paste -sd, "$out/steps")" \
    >"$out/gpu.json"
echo "$out/gpu.json"
[ -z "$failed" ]
