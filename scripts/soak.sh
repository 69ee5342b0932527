#!/bin/bash
# scripts/soak.sh [KILLS [RANDOM [STEPS]]]
#
# The long versions of tests/fault, about an hour: KILLS kill -9 in each phase of a run (200) and
# RANDOM at random moments (1000), each run resumed and compared bit for bit; then STEPS steps
# (10,000) of a tiny model with the slopes of memory, file handles and step time.
# scripts/fuzz.sh and scripts/sanitize.sh stand beside it.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in
  -h | --help) print_help "$0"; exit 0 ;;
esac
[ -f "$build_dir/build.ninja" ] || fail "$build_dir is not configured" "run scripts/build.sh all first"
ninja -C "$build_dir" train_sft kill_everywhere >&2
# Killing a process loses nothing that was written: a folder in memory serves as well as a disk.
[ ! -d /dev/shm ] || export TMPDIR=/dev/shm
say "kills"
"$build_dir/tests/fault/kill_everywhere" "${1:-200}" "${2:-1000}" "$RANDOM"
say "a long run"
python3 "$root/tests/fault/slopes.py" "$build_dir/train_sft" "${3:-10000}"
