#!/usr/bin/env bash
# The whole recipe: tokenizers, autoencoder, flow, guidance, two LoRAs, export, evaluation.
#   run.sh WORK MODEL          trains in WORK on a GPU and writes the model to MODEL
#   run.sh --smoke WORK MODEL  the same with a few steps on a CPU, to see that every step runs
# PYTHON names the interpreter (default: python3).
set -euo pipefail

smoke=() few=()
if [ "${1:-}" = --smoke ]; then
    shift
    smoke=(--smoke 2 --batch 8) few=(--count 4 --batch 4)
fi
work=$(realpath -m "$1") model=$(realpath -m "$2") python=${PYTHON:-python3}
cd "$(dirname "$0")"
mkdir -p "$work"

"$python" make_tokenizers.py "$work"
"$python" train.py vae "$work" --minutes 3 --batch 192 "${smoke[@]}"
"$python" train.py text "$work" --minutes 0.5 "${smoke[@]}"
"$python" train.py base "$work" --minutes 8 "${smoke[@]}"
"$python" train.py guide "$work" --minutes 2.5 "${smoke[@]}"
for style in neon chalk; do
    "$python" train.py lora "$work" --style "$style" --minutes 1.95 "${smoke[@]}"
done
"$python" export.py "$work" "$model"
./evaluate.sh "$model" "$work/evaluation" "${few[@]}"
