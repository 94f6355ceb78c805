# What both scripts have in common; read with `.`, not run.
#
# stage NAME SECONDS COMMAND...   runs a command with a limit and its output in NAME.log; goes on
#                                 after a failure; a line says how it ended

# Libraries of NVIDIA's packages for Python are found by the Python's own folder.
python=${PYTHON:-python3}
if [ -z "${VIRTUAL_ENV:-}" ] && command -v "$python" >/dev/null; then
    VIRTUAL_ENV=$("$python" -c 'import sys; print(sys.prefix)')
    export VIRTUAL_ENV
fi
export RUST_BACKTRACE=1 PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
summary=$out/summary.txt
failed=0

wanted() { [ -z "${ONLY:-}" ] || [[ " $ONLY " == *" $1 "* ]]; }

stage() {
    local name=$1 limit=$2 start=$SECONDS status=0 word=ok
    shift 2
    wanted "$name" || return 0
    if [ -n "${DEADLINE:-}" ] && [ $((SECONDS + 15)) -gt "$DEADLINE" ]; then
        echo "skipped $name: time is up" | tee -a "$summary"
        return 0
    fi
    if [ -n "${DEADLINE:-}" ] && [ $((DEADLINE - SECONDS)) -lt "$limit" ]; then
        limit=$((DEADLINE - SECONDS))
    fi
    timeout --kill-after=10 "$limit" "$@" >"$out/$name.log" 2>&1 || status=$?
    case $status in
    0) ;;
    124 | 137) word="CUT OFF after $limit s" ;;
    *) word="FAILED ($status)" ;;
    esac
    [ "$word" = ok ] || failed=$((failed + 1))
    printf '%-34s %s, %s s\n' "$name" "$word" $((SECONDS - start)) | tee -a "$summary"
    # Tests that need a GPU pass without one, and say so.
    grep -aohs 'not run: .*' "$out/$name.log" | sort -u | head -n 2 | sed 's/^/    /' | tee -a "$summary"
    if [ "$word" != ok ]; then
        grep -aE 'FAILED|failed|panicked|rror' "$out/$name.log" | grep -av ' ... ok$' | head -n "${SHOWN:-6}" | cut -c1-400 |
            sed 's/^/    /' | tee -a "$summary"
    fi
    return 0
}
