#!/bin/bash
# bench/compare_cpu.sh TEXT [FOLDER [more options of compare_cpu.py]]
#
# One table: train_sft, PyTorch eager, torch.compile and the roofline of this machine, for GPT-2 124M
# (4 x 1024 tokens), 6 layers of 384 (8 x 256) and 4 layers of 128 (12 x 64); with
# --model DIR --alpaca FILE also supervised fine-tuning of SmolLM2-135M against transformers.
# About 40 minutes with the standard 5 rounds; --rounds 1 --models '4 x 128' for a look.
# Leave the machine alone meanwhile.
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/common.sh"

case ${1:-} in
  "" | -h | --help) print_help "$0"; exit 2 ;;
esac
text=$(realpath "$1")
[ -e "$text" ] || fail "no such file: $text" "Give a plain-text file, such as tinyshakespeare's input.txt." 2
for needed in train_sft bench/roofline; do
  [ -x "$build_dir/$needed" ] || fail "build/$needed is not there" \
    "Configure with -DTRAIN_SFT_BENCH=ON and build: scripts/build.sh, ninja -C build roofline."
done
if [ -n "${2:-}" ]; then
  folder=$(mkdir -p "$2" && realpath "$2")
else
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
fi
[ -e "$folder/tokenizer" ] ||
  "$build_dir/train_sft" prepare --data "$text" --tokenizer_type char --out "$folder/tokenizer" >/dev/null 2>&1
"$root/.venv/bin/python" "$root/bench/compare_cpu.py" --text "$text" --folder "$folder" --out "$folder/compare_cpu.json" \
  "${@:3}"
