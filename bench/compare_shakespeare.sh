#!/bin/bash
# bench/compare_shakespeare.sh TEXT [repeats=3] [folder]
#
# The wall time of `train_sft --config shakespeare_char` and of the same model in PyTorch eager
# (bench/shakespeare_torch.py with the faster of 1 and 2 threads, found in the first run), in turn on this machine, with
# medians, their ratio and the validation losses. Ours counts the whole process: start, tokenizer,
# training, one evaluation of the whole validation text at the end, checkpoints. The reference counts
# from its first line after the imports, with the same evaluation. The runs' files stay in `folder`.
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/common.sh"

case ${1:-} in
  "" | -h | --help) print_help "$0"; exit 2 ;;
esac
text=$(realpath "$1")
repeats=${2:-3}
python=$root/.venv/bin/python
[ -e "$text" ] || fail "no such file: $text" "Give a plain-text file, such as tinyshakespeare's input.txt." 2
[ -x "$build_dir/train_sft" ] || fail "build/train_sft is not there" "Run scripts/build.sh."
if [ -n "${3:-}" ]; then
  mkdir -p "$3"
  cd "$3"
else
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  cd "$scratch"
fi

now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN {printf "%.2f\n", b - a}'; }
median() { sort -n | awk '{v[NR] = $1} END {print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }

ours() {  # seed → seconds; leaves ours_$seed
  local start
  start=$(now)
  "$build_dir/train_sft" --config shakespeare_char --data "$text" --seed "$1" --out_dir "ours_$1" \
    --eval_interval 2000 --json >"ours_$1.json" 2>"ours_$1.err" ||
    fail "train_sft failed: $(tail -n 3 "ours_$1.err")" "Run it by hand to see why."
  since "$start"
}
reference() {  # seed threads → seconds
  "$python" "$root/bench/shakespeare_torch.py" --data "$text" --seed "$1" --threads "$2" \
    --vocab_size "$vocab_size" --out "torch_$1_$2.json" >/dev/null
  "$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["total_s"])' "torch_$1_$2.json"
}

threads_tried="1 2"
for repeat in $(seq "$repeats"); do
  seed=$((1336 + repeat))
  ours $seed >>ours.txt
  say "run $repeat: train_sft $(tail -n 1 ours.txt) s"
  vocab_size=$("$python" -c 'import json; print(json.load(open("'"ours_$seed"'/latest/config.json"))["vocab_size"])')
  for threads in $threads_tried; do
    reference $seed "$threads" >>"torch_$threads.txt"
    say "run $repeat: PyTorch, $threads threads: $(tail -n 1 "torch_$threads.txt") s"
  done
  # Once is enough to see which thread count is the slower.
  [ "$repeat" != 1 ] || threads_tried=$(paste torch_1.txt torch_2.txt | awk '{print ($1 < $2) ? 1 : 2}')
done

"$python" - "$(median <ours.txt)" "$(median <torch_1.txt)" "$(median <torch_2.txt)" "$repeats" <<'EOF2'
import glob, json, statistics, sys
ours, one, two = map(float, sys.argv[1:4])
best = min(one, two)
losses = [json.load(open(f))["val_loss"] for f in sorted(glob.glob("ours_*.json"))]
theirs = [json.load(open(f))["val_loss"] for f in sorted(glob.glob("torch_*_*.json"))]
print(f"median of {sys.argv[4]}: train_sft {ours:.1f} s, PyTorch eager {best:.1f} s ({one:.1f} with 1 thread, {two:.1f} with 2)")
print(f"ratio of wall times, ours / PyTorch: {ours / best:.2f}")
print(f"validation loss: train_sft {statistics.mean(losses):.4f} {[round(v, 4) for v in losses]}, PyTorch {statistics.mean(theirs):.4f}")
EOF2
