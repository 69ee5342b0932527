#!/bin/bash
# scripts/start_training.sh --config NAME [train_sft options]
#
# Starts a training run, or goes on with it when it was cut off: run the same line again.
#   scripts/start_training.sh --config production_8gpu --gpus 8
#
# Environment: TRAIN_SFT (the program)
. "$(dirname "${BASH_SOURCE[0]}")/phases.sh"

case ${1:-} in
  -h | --help | "") print_help "$0"; [ -n "${1:-}" ]; exit ;;
esac
require_program
resume=(--resume auto)
for argument in "$@"; do
  case $argument in --resume | --resume=*) resume=() ;; esac
done
exec "$train_sft" "$@" "${resume[@]}" </dev/null
