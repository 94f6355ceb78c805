#!/usr/bin/env bash
# Checks the CUDA backend on a GPU, the simplest things first; from a folder that pack.sh made.
#
#   FOLDER/first-run.sh OUT                       all stages, each with a limit of its own
#   ONLY="own-checks conformance" first-run.sh OUT   only these (a stage of a graph by its group)
#   DEADLINE=500 first-run.sh OUT                 nothing begins or lasts after so many seconds
#
# OUT gets a log for each stage, summary.txt, and found.json of the conformance program. A stage that
# fails does not end the others. Ends with 1 if one failed.
#
# | stages | run |
# |---|---|
# | machine | what is there |
# | device | the layer below: memory, kernels of weight programs |
# | own-checks | each graph with kernels of our own, each step waited for |
# | checks | the same with cuBLASLt and cuDNN |
# | own, plain | the same captured and replayed |
# | branches | the same with steps side by side |
# | wrong | where a graph went wrong before: the first wrong value |
# | blas, dnn | the libraries' own tests; attention of bf16 and of 8-bit codes side by side |
# | profile | the time of each step of the blocks |
# | conformance | operations, promises, models, picture, refits on CUDA against the CPU |
# | memcheck, racecheck | compute-sanitizer, if it is there |
#
# FIXTURES names the folder of recorded cases if it is not beside this script, PYTHON a Python.
set -uo pipefail

here=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "${1:?the folder for logs}" && cd "$1" && pwd)
: "${TINTYPE_CACHE:=${TMPDIR:-/tmp}/tintype-cache}"
export TINTYPE_CACHE
. "$here/common.sh"
: >"$summary"

machine() {
    nvidia-smi --query-gpu=name,driver_version,memory.total,memory.used --format=csv,noheader
    uname -r
    df -h /dev/shm /tmp "$out"
    ldconfig -p | grep -E 'libcuda\.|cublasLt|cudnn|nvrtc'
    "$python" -c 'import torch; print(torch.__version__, torch.version.cuda, torch.backends.cudnn.version())'
}
export -f machine
export out python
stage machine 60 bash -c machine
stage device 90 "$here/check_device" --require-gpu

# Each graph in a process of its own: after a fault on the device a process can do no more.
graphs() {
    local group=$1 limit=$2
    shift 2
    wanted "$group" || return 0
    for graph in "$here"/graphs/*.ir; do
        ONLY="" stage "$group.$(basename "$graph" .ir)" "$limit" \
            "$here/check_cuda" --require-gpu "$@" "$graph"
    done
}
graphs own-checks 60 --own-kernels --checks
graphs checks 60 --checks
graphs own 60 --own-kernels
graphs plain 60
graphs branches 60 --branches

# Graphs that failed once more, value by value.
if wanted wrong; then
    for graph in "$here"/graphs/*.ir; do
        name=$(basename "$graph" .ir)
        for group in own-checks checks; do
            log=$out/$group.$name.log
            grep -qsE 'FAILED|rror|panicked' "$log" || continue
            own=()
            [ $group = own-checks ] && own=(--own-kernels)
            ONLY="" stage "wrong.$group.$name" 90 \
                "$here/first_wrong_value" "$graph" --backend cuda --checks "${own[@]}"
            tail -n 1 "$out/wrong.$group.$name.log" 2>/dev/null | tee -a "$summary"
            break
        done
    done
fi

stage blas 120 "$here/cuda_tests" libraries::blas --nocapture --test-threads 1
stage dnn 200 "$here/cuda_tests" libraries::dnn --include-ignored --nocapture --test-threads 1
graphs profile 60 --profile
stage conformance 240 env NVIDIA_TF32_OVERRIDE=0 "$here/tintype-conformance" --require-gpu \
    --backend cuda --only operations,promises,models,picture,refits \
    --fixtures "${FIXTURES:-$here/fixtures}" --json "$out/found.json"

# One of both tools, under the stage's own name.
sanitize() {
    local tool=$1
    shift
    wanted "$tool" || return 0
    if ! command -v compute-sanitizer >/dev/null; then
        echo "skipped $tool: there is no compute-sanitizer" | tee -a "$summary"
        return 0
    fi
    for graph in operations flux_single_blocks flux_double_blocks narrow_attention; do
        ONLY="" stage "$tool.$graph" 100 compute-sanitizer --tool "$tool" --error-exitcode 9 \
            "$here/check_cuda" --require-gpu --no-graphs "$@" "$here/graphs/$graph.ir"
    done
}
sanitize memcheck
sanitize racecheck --own-kernels

# What libraries did not take, said once for each kind of step and each graph.
grep -hs 'does not take' "$out"/{checks,plain}.*.log "$out/conformance.log" | sort | uniq -c | sort -rn |
    cut -c1-300 | head -n 20 | tee -a "$summary"
echo "$failed stages failed; logs and summary.txt in $out"
[ "$failed" = 0 ]
