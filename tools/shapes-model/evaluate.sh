#!/usr/bin/env bash
# evaluate.sh MODEL OUT [OPTIONS]: draws held-out captions at 20 and at 4 steps and with each LoRA, and judges them.
# The options go to evaluate.py, for example --count 500.
set -euo pipefail

model=$(realpath "$1") out=$(realpath -m "$2") python=${PYTHON:-python3}
shift 2
cd "$(dirname "$0")"
"$python" evaluate.py "$model" "$out/steps-20" "$@"
"$python" evaluate.py "$model" "$out/steps-4" --steps 4 "$@"
for style in neon chalk; do
    "$python" evaluate.py "$model" "$out/$style" --lora "$style" --against "$out/steps-20" "$@"
done
