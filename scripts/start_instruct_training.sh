#!/bin/bash
# scripts/start_instruct_training.sh [train_sft options]
#
# Instruction tuning of checkpoints/best_model.pt as configs/instruct_alpaca.json has it (2,300 steps
# of 64 examples at 2e-5, evaluation and checkpoint every 100, TensorBoard). Options come on top:
#   scripts/start_instruct_training.sh --max_steps 3100
# Run again after an interruption it goes on.
. "$(dirname "${BASH_SOURCE[0]}")/phases.sh"

case ${1:-} in
  -h | --help) print_help "$0"; exit 0 ;;
esac
config=(--config instruct_alpaca)
for argument in "$@"; do
  case $argument in --config | --config=*) config=() ;; esac
done
exec "$root/scripts/start_training.sh" "${config[@]}" "$@"
