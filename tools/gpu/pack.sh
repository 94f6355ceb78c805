#!/usr/bin/env bash
# Puts into one folder all that a machine with a GPU needs to check and measure the backends: no
# cargo, no network and no sources are needed there, for the peers a Python with torch and diffusers.
#
#   tools/gpu/pack.sh FOLDER [--dev]      # --dev: without optimization, to try the scripts
#
# On the other machine: FOLDER/first-run.sh, then FOLDER/bench.sh; both say what they take.
set -euo pipefail

folder=$(mkdir -p "$1" && cd "$1" && pwd)
profile=(--release)
[ "${2:-}" = --dev ] && profile=()
cd "$(dirname "$0")/../.."
TINTYPE_COMMIT=$(git rev-parse --short HEAD)
export TINTYPE_COMMIT

# The paths of programs that cargo made, one a line.
made() {
    cargo build "${profile[@]}" --message-format=json-render-diagnostics "$@" |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p'
}

mkdir -p "$folder/graphs" "$folder/peers"
made -p tintype-conformance --bin tintype-conformance \
    --example check_cuda --example first_wrong_value | while read -r program; do
    cp "$program" "$folder/"
done
made -p tintype-device --example check_device | while read -r program; do cp "$program" "$folder/"; done
tests=$(cargo test "${profile[@]}" -p tintype-cuda --lib --no-run --message-format=json-render-diagnostics |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
cp "$tests" "$folder/cuda_tests"
if command -v strip >/dev/null; then
    strip "$folder"/{tintype-conformance,check_cuda,first_wrong_value,check_device,cuda_tests}
fi
cp crates/cuda/tests/files/*.ir "$folder/graphs/"
cp benches/peers/*.py "$folder/peers/"
cp -r crates/conformance/fixtures "$folder/"
cp tools/gpu/first-run.sh tools/gpu/bench.sh tools/gpu/common.sh "$folder/"
du -sh "$folder"
