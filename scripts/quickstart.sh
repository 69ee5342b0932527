#!/bin/bash
# scripts/quickstart.sh
#
# From a fresh clone to a chatting model in one command: installs what is missing, builds, makes a
# small world of text and instructions (scripts/make_world.py), then
#   tokenizer → pretraining on the text → SFT on the instructions → exact match on held-out
#   instructions, by category, before and after → the same SFT without pretraining → a chat
# Everything lies in quickstart/, settings first: train_sft.json, base.json, sft.json, copied from
# examples/quickstart. Can be run again: what is finished is skipped, what was stopped goes on.
#
# Environment: QUICKSTART=<folder>      instead of quickstart/
#              SKIP_SETUP=1             neither installs nor builds
#              EXAMPLE=<folder>         settings from there instead of examples/quickstart
#              TRAIN_SFT, BUILD_DIR, TORCH_ROOT, JOBS as for scripts/build.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
train_sft=${TRAIN_SFT:-$build_dir/train_sft}
example=$(realpath "${EXAMPLE:-$root/examples/quickstart}")

case ${1:-} in
  "") ;;
  -h | --help) print_help "$0"; exit 0 ;;
  *) fail "unknown argument '$1'" "Use: scripts/quickstart.sh; settings are in $example." 2 ;;
esac

# step NAME COMMAND…: runs a command once. A step done before with the same command and settings is
# skipped. Seconds are added up over attempts, so that a stopped and continued phase tells the truth.
step() {
  local name=$1 done_file=.steps/$1.done seconds_file=.steps/$1.seconds start=$SECONDS code=0 wanted
  shift
  wanted="$* $(cat train_sft.json base.json sft.json "$root/scripts/make_world.py" | cksum)"
  if [ -e "$done_file" ]; then
    if [ "$(cat "$done_file")" = "$wanted" ]; then
      say "$name: done before"
      return
    fi
    fail "$name was done before with other settings or another program version" \
      "Start anew: rm -r '$PWD' (or set QUICKSTART to another folder)." 2
  fi
  say "$name: $*"
  "$@" </dev/null || code=$?
  echo $((SECONDS - start)) >>"$seconds_file"
  if [ $code != 0 ]; then
    fail "$name ended with code $code" "Its own message is above. scripts/quickstart.sh goes on from here." $code
  fi
  printf '%s' "$wanted" >"$done_file"
}

seconds_of() { cat "${@/%/.seconds}" | awk '{s += $1} END {print s + 0}'; }

# eval with its result in a file, written whole or not at all.
measure() {
  "$train_sft" eval --checkpoint "$1" --data data/held_out.jsonl --exact_match -1 \
    --group_by category --json >"$2.part" && mv "$2.part" "$2"
}

# The accuracy files as a table, a line a category.
print_accuracy() {
  python3 - accuracy_before.json accuracy_after.json accuracy_sft_only.json <<'PY'
import json, sys
columns = [json.load(open(path))["exact_match"] for path in sys.argv[1:]]
names = ["pretrained", "then SFT", "SFT alone"]
print(f"\nExact match on {columns[0]['asked']} held-out instructions, %")
print(f"{'category':<14}{'asked':>6}" + "".join(f"{name:>12}" for name in names))
for category in sorted(columns[0]["by_group"]):
    rows = [column["by_group"][category] for column in columns]
    print(f"{category:<14}{rows[0]['asked']:>6}" + "".join(f"{100 * row['accuracy']:>12.1f}" for row in rows))
print(f"{'all':<14}{columns[0]['asked']:>6}" + "".join(f"{100 * column['accuracy']:>12.1f}" for column in columns))
PY
}

# A held-out question of each kind, asked as a person would.
chat_sample() {
  python3 - data/held_out.jsonl <<'PY' | while IFS= read -r question; do
import json, sys
seen = set()
for record in map(json.loads, open(sys.argv[1])):
    if record["category"] not in seen:
        seen.add(record["category"])
        print(json.dumps(record["instruction"] + ("\n" + record["input"] if record["input"] else "")))
PY
    question=$(python3 -c 'import json, sys; print(json.loads(sys.argv[1]))' "$question")
    printf '\nyou: %s\nmodel: ' "$question"
    "$train_sft" chat --checkpoint sft/best_model --prompt "$question" --temperature 0 --max_new_tokens 32 </dev/null
  done
}

if [ -z "${SKIP_SETUP:-}" ]; then
  "$root/scripts/setup.sh"
  "$root/scripts/build.sh"
fi
[ -x "$train_sft" ] || fail "the program is not there ($train_sft)" \
  "Run scripts/setup.sh and scripts/build.sh, or set TRAIN_SFT."
train_sft=$(realpath "$train_sft")

work=${QUICKSTART:-$root/quickstart}
mkdir -p "$work/.steps" && cd "$work" || fail "cannot write to $work" "Set QUICKSTART to a folder of yours."
cp "$example/train_sft.json" "$example/base.json" "$example/sft.json" .

step world python3 "$root/scripts/make_world.py" --out data
step tokenizer "$train_sft" prepare --data data/pretrain.txt --tokenizer_type bpe --vocab_size 768 --val_split 0 \
  --out tokenizer
step base "$train_sft" --config base.json --out_dir base --resume auto
step accuracy_before measure base/best_model accuracy_before.json
step sft "$train_sft" --config sft.json --pretrained_model base/best_model --out_dir sft --resume auto
step accuracy_after measure sft/best_model accuracy_after.json
step sft_only "$train_sft" --config sft.json --out_dir sft_only --resume auto
step accuracy_sft_only measure sft_only/best_model accuracy_sft_only.json

chat_sample
print_accuracy
echo
echo "Pretraining took $(seconds_of .steps/base) s, SFT $(seconds_of .steps/sft) s; SFT alone $(seconds_of .steps/sft_only) s."
cat <<END
In $work:
  data/          what was read: pretrain.txt, sft_train.jsonl, held_out.jsonl
  tokenizer/     the tokenizer
  base/ sft/ sft_only/   the runs: training.log, metrics.jsonl, checkpoints (best_model is a Hugging Face model)
  accuracy_*.json        the numbers above
Talk to it:  $train_sft chat --checkpoint $work/sft/best_model
END
