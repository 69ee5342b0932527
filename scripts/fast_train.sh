#!/bin/bash
# scripts/fast_train.sh [train_sft options of the SFT phase]
#
# From raw text to a chat model in three phases, each from the one before:
#   base  pretraining on text             base.json   checkpoints/base
#   mid   conversations, every token      mid.json    checkpoints/mid
#   sft   conversations, the assistant    train_sft.json and the options here   checkpoints/sft
# The configurations lie in the current folder; see examples/chat_sft_8gb. For example
#   scripts/fast_train.sh --device_batch_size=2 --max_tokens=1024 --eval_every=-1 --num_iterations=300
# Stopped or killed in any phase: scripts/resume.sh, with the same options, goes on.
#
# Environment: TRAIN_SFT (the program), CHECKPOINTS (instead of checkpoints/), BASE_CONFIG, MID_CONFIG
. "$(dirname "${BASH_SOURCE[0]}")/phases.sh"

case ${1:-} in
  -h | --help) print_help "$0"; exit 0 ;;
esac
for phase in base mid sft; do
  if [ -e "$checkpoints/$phase" ]; then
    fail "$checkpoints/$phase is there already: an earlier run" \
      "Go on with it: scripts/resume.sh. Start anew: remove $checkpoints/{base,mid,sft}, or set CHECKPOINTS." 2
  fi
done
run_phases "$@"
