#!/usr/bin/env bash
# Everything that a machine with a real GPU is asked, in one command of at most ten minutes. It needs a Vulkan driver and a release
# binary of fuselstm, no Rust; with Python and PyTorch also the peers run beside it.
#
#   real-gpu.sh BINARY [--peers DIR] [--python PYTHON] [--device gpu] [--out DIR] [--seconds 600] [--quick]
#
#   --peers DIR      folder of gpu_peers.py and cudnn_direct.py; without it no peer runs
#   --python PYTHON  an interpreter with numpy and torch (default: python3)
#   --out DIR        files of lines, tables, pictures, logs (default: real-gpu-results)
#   --seconds N      when this much time is used up, what is left is skipped, and said to be
#   --quick          small shapes and few runs: proves the script, on a software driver too; its times mean nothing
#
# Ends with a table and the list of what failed or was skipped; the status is 1 when something failed.
set -uo pipefail

die() { echo "real-gpu.sh: $*" >&2; exit 2; }
[ $# -ge 1 ] || die "which binary? usage: real-gpu.sh BINARY [--peers DIR] [--python PYTHON] [--device D] [--out DIR] [--seconds N] [--quick]"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
binary=$1; shift
peers='' python=python3 device=gpu out=real-gpu-results seconds=600 quick=0
while [ $# -gt 0 ]; do
    case $1 in
        --quick) quick=1; shift; continue ;;
        --peers|--python|--device|--out|--seconds) [ $# -ge 2 ] || die "$1 needs a value" ;;
        *) die "unknown option $1" ;;
    esac
    case $1 in
        --peers) peers=$2 ;; --python) python=$2 ;; --device) device=$2 ;; --out) out=$2 ;; --seconds) seconds=$2 ;;
    esac
    shift 2
done
[ -x "$binary" ] || die "$binary is no program"
[[ $seconds =~ ^[0-9]+$ ]] || die "--seconds $seconds is no number"
if [ -n "$peers" ] && [ ! -f "$peers/gpu_peers.py" ]; then die "$peers has no gpu_peers.py"; fi
mkdir -p "$out" || die "$out cannot be made"
out=$(cd "$out" && pwd)
rm -f "$out"/*.jsonl "$out"/*.json "$out"/*.txt "$out"/*.md "$out"/*.log "$out"/*.svg
# What is tuned here stays here.
export XDG_CACHE_HOME="$out/cache" NO_COLOR=1
: "${XDG_RUNTIME_DIR:=$(mktemp -d)}"; export XDG_RUNTIME_DIR

end=$((SECONDS + seconds))
missed=() failed=()

# part NAME LIMIT COMMAND...: runs it with what time is left, LIMIT seconds at most; its standard output goes to NAME, the rest to log.
part() {
    local name=$1 limit=$2 left=$((end - SECONDS)) status start=$SECONDS; shift 2
    if [ "$left" -lt 5 ]; then
        missed+=("$name"); echo "== SKIPPED, the time is used up: $name"; return
    fi
    [ "$left" -lt "$limit" ] && limit=$left
    echo "== $name ($left s left): $*" | tee -a "$out/log.txt"
    timeout --kill-after=10 "$limit" "$@" >>"$out/$name" 2>>"$out/log.txt"; status=$?
    case $status in
        0) echo "   done in $((SECONDS - start)) s" ;;
        124|137) missed+=("$name (stopped after $limit s)"); echo "   STOPPED after $limit s" ;;
        *) failed+=("$name (status $status)"); echo "   FAILED with status $status: $(grep -aE '^(error|warn: WRONG|Traceback|[A-Za-z]*Error)' "$out/log.txt" | tail -n 1 | cut -c1-300)" ;;
    esac
}
# The lines of bench, with a document's worth of fields each.
bench() { local name=$1 limit=$2; shift 2; part "$name" "$limit" "$binary" bench --device "$device" --format jsonl "$@"; }

# Every strategy by name. One that does not apply to a shape is passed over, which the log says.
strategies=loop,loop-split,step,step-split,wavefront,persistent
if [ $quick = 1 ]; then
    few=(--warmup 1 --runs 2 --seconds 0)
    check_long=(--time 100 --batch 1 --hidden 16,33) check_wide=(--time 5 --batch 1,3 --hidden 16,48)
    sweep=(--time 16 --batch 1,4 --hidden 16-64*2) large=(--time 8 --batch 16 --hidden 32) stack=(--time 16 --layers 2 --hidden 16)
    tuned=(--time 16 --batch 1 --hidden 16)
    cases=(16,1,16,16 16,4,16,16) reps=5
else
    few=(--warmup 3 --runs 20 --seconds 0.2)
    check_long=(--time 1000 --batch 1 --hidden 64,100,128,256) check_wide=(--time 1,37 --batch 1,3,16 --hidden 16,64,128,200,512)
    sweep=(--time 128 --batch 1,16 --hidden 64-1024*2) large=(--time 128 --batch 64,256 --hidden 256,512)
    stack=(--time 128 --layers 4 --hidden 64,256,512)
    tuned=(--time 128 --batch 1,16 --hidden 64-1024*2)
    cases=(128,1,64,64 128,1,128,128 128,1,256,256 128,1,512,512 128,1,1024,1024
           128,16,64,64 128,16,128,128 128,16,256,256 128,16,512,512 128,64,256,256 128,64,512,512 128,256,512,512)
    reps=40
fi
once=(--warmup 1 --runs 1 --seconds 0)

part devices.txt 30 "$binary" devices
cat "$out/devices.txt"

# Correct first: a wrong result fails the part.
bench check-long.jsonl 100 --check "${check_long[@]}" --strategy $strategies "${once[@]}"
bench check-wide.jsonl 100 --check "${check_wide[@]}" --strategy $strategies "${once[@]}"
bench check-cells.jsonl 40 --check --cell gru,rnn --time 20 --batch 1,5 --hidden 40 --strategy $strategies "${once[@]}"
bench check-both.jsonl 40 --check --bidirectional --layers 2 --time 20 --batch 1,5 --hidden 40 --strategy $strategies "${once[@]}"
bench check-reduced.jsonl 40 --check --precision f16,int8 --time 50 --batch 1,9 --hidden 64 --strategy $strategies "${once[@]}"
digits=$here/../examples/data/digits.tflite
[ -f "$digits" ] && part check-digits.txt 30 "$binary" crosscheck "$digits" --device "$device"

part ceilings.json 40 "$binary" bench --ceilings --device "$device,cpu" --time 8 --hidden 64 "${once[@]}" --format json

# The planner's choice, then every strategy, then the other shapes; the planner's choice again after the peers.
bench ours.jsonl 60 --phases "${sweep[@]}" "${few[@]}"
bench strategies.jsonl 90 "${sweep[@]}" --strategy $strategies "${few[@]}" --svg "$out/strategies.svg"
bench ours.jsonl 40 "${large[@]}" "${few[@]}"
bench stack.jsonl 40 "${stack[@]}" "${few[@]}"
bench stack.jsonl 40 --bidirectional --time 64 --hidden 64 --batch 1,16 "${few[@]}"
bench reduced.jsonl 40 --precision f16,int8 "${sweep[@]}" "${few[@]}"

if [ -n "$peers" ]; then
    more=(); [ $quick = 1 ] && more=(--cpu)
    for section in info,ceilings,floors torch cudnn jax; do
        # PyTorch on a processor has no cuDNN to ask.
        [ $quick = 1 ] && [ $section != torch ] && continue
        part "peers-${section##*,}.txt" 120 "$python" "$peers/gpu_peers.py" "${more[@]}" --sections "$section" --dtypes f32,f16 \
            --reps $reps --out "$out/peers.jsonl" "${cases[@]}"
    done
    bench again.jsonl 60 "${sweep[@]}" "${few[@]}"
else
    missed+=("every peer: no --peers"); echo "== SKIPPED, no --peers: PyTorch, cuDNN, JAX"
fi
bench tuned.jsonl 60 --tune --verbose "${tuned[@]}" "${few[@]}"

echo; echo "== results, in $out"
if command -v "$python" >/dev/null; then
    files=()
    for file in ours again stack reduced peers; do [ -s "$out/$file.jsonl" ] && files+=("$out/$file.jsonl"); done
    "$python" "$here/peers.py" --table "${files[@]}" | tee "$out/table.md"
else
    echo "no $python: the table is left out, the lines are in $out"
fi
worst() { cat "$out"/check-*.jsonl 2>/dev/null | grep -o '"max_abs":[0-9.e-]*' | cut -d: -f2 | sort -g | tail -n 1; }
echo "rows held against the reference: $(cat "$out"/check-*.jsonl 2>/dev/null | wc -l), largest distance of all: $(worst)"
for what in "${missed[@]+"${missed[@]}"}"; do echo "SKIPPED: $what"; done
for what in "${failed[@]+"${failed[@]}"}"; do echo "FAILED: $what"; done
[ ${#failed[@]} -eq 0 ]
