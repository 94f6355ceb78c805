#!/usr/bin/env bash
# Measures the CUDA backend beside its peers at FLUX.1-dev's full size; from a folder that pack.sh made.
#
#   FOLDER/bench.sh OUT                    the usual parts
#   FOLDER/bench.sh OUT ours,profile       only these, see peers/bench_flux.py --help
#   DEADLINE=500 bench.sh OUT ...          cut off after so many seconds; parts that ended are kept
#   MODEL=DIR bench.sh OUT pictures        whole pictures; DIR is made if it is not there (34 GB)
#   MORE="--target sm80 --plans DIR" bench.sh OUT swap-tensorrt     arguments of the program
#   SMALL=cpu bench.sh OUT ours            a small transformer on this backend, to try the script
#   FIXTURES=DIR bench.sh ...              recorded cases that are not beside this script
#
# OUT gets flux.json, flux.svg and a log for each part. Compiled kernels and chosen algorithms are kept in
# TINTYPE_CACHE, so that a second run begins sooner.
set -uo pipefail

here=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "${1:?the folder for results}" && cd "$1" && pwd)
parts=${2:-eager,ours,ours-branches,compile,ours-batch2,ours-branches-batch2,ours-f16,again,profile,bandwidth,fidelity,swap,swap-peers}
: "${TINTYPE_CACHE:=${TMPDIR:-/tmp}/tintype-cache}"
export TINTYPE_CACHE
. "$here/common.sh"
: >>"$summary"

small=()
[ -n "${SMALL:-}" ] && small=(--small --backend "$SMALL")
model=()
if [ -n "${MODEL:-}" ]; then
    model=(--model "$MODEL")
    if [ ! -e "$MODEL/model_index.json" ]; then
        stage make-model 300 "$python" "$here/peers/flux_weights.py" --make "$MODEL" \
            --tokenizers "${FIXTURES:-$here/fixtures}/pipelines/dev" "${small[@]:0:1}"
        cat "$out/make-model.log"
    fi
fi
stage "bench" "${LIMIT:-3600}" "$python" "$here/peers/bench_flux.py" --program "$here/tintype-conformance" \
    --python "$python" --out "$out/flux.json" --logs "$out" --parts "$parts" \
    --limit "${PART_LIMIT:-240}" --more "${MORE:-}" "${small[@]}" "${model[@]}"
grep -avE '^\$' "$out/bench.log" | tail -n 40
# The tables of where time goes, if they were asked for.
for part in profile bandwidth swap; do
    [[ ",$parts," == *",$part,"* ]] && grep -ahE '^ {8}|^FAILED' "$out/$part.log" 2>/dev/null | cut -c1-140 | head -n 70
done
[ "$failed" = 0 ]
