#!/bin/bash
# scripts/resume.sh [train_sft options of the SFT phase]
#
# Goes on with scripts/fast_train.sh where it stopped: finished phases are skipped, the one that was
# cut off continues from its newest valid checkpoint, the rest run. Safe to run at any time.
. "$(dirname "${BASH_SOURCE[0]}")/phases.sh"

case ${1:-} in
  -h | --help) print_help "$0"; exit 0 ;;
esac
run_phases "$@"
