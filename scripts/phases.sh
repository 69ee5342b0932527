# Sourced by fast_train.sh and resume.sh: the three phases from raw text to a chat model.
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
train_sft=${TRAIN_SFT:-$build_dir/train_sft}
checkpoints=${CHECKPOINTS:-checkpoints}

require_program() {
  [ -x "$train_sft" ] || command -v "$train_sft" >/dev/null ||
    fail "the program is not there ($train_sft)" "Run scripts/setup.sh and scripts/build.sh, or set TRAIN_SFT."
}

# Runs a command so that a stop of this script stops it too, and waits until it has saved. SIGTERM to
# the script alone is passed on; Ctrl-C reaches the command by itself, being of the same terminal.
run_until_saved() {
  local child code
  "$@" </dev/null &
  child=$!
  trap 'kill -TERM $child 2>/dev/null' TERM
  trap : INT
  while :; do
    code=0
    wait $child || code=$?
    kill -0 $child 2>/dev/null || break  # else wait was cut short by a signal
  done
  trap - TERM INT
  return $code
}

# run_phase NAME ARGUMENTS…: trains into $checkpoints/NAME, from where it stopped if it was begun.
# A phase that ended well leaves NAME/finished with its arguments in it, and is not run again.
run_phase() {
  local name=$1 out=$checkpoints/$1 code=0
  shift
  if [ -e "$out/finished" ]; then
    if [ "$(cat "$out/finished")" = "$*" ]; then
      say "$name: finished before ($out)"
      return
    fi
    say "$name: finished before with other arguments ($(cat "$out/finished")); going on with: $*"
    rm "$out/finished"
  fi
  say "$name: $train_sft $*"
  run_until_saved "$train_sft" "$@" --out_dir "$out" --resume auto || code=$?
  if [ $code != 0 ]; then
    printf 'error: the %s phase ended with code %d\n' "$name" $code >&2
    printf '       Its own message is above; scripts/resume.sh goes on from its last checkpoint.\n' >&2
    exit $code
  fi
  printf '%s\n' "$*" >"$out/finished"
}

# Arguments are for the last phase.
run_phases() {
  require_program
  run_phase base --config "${BASE_CONFIG:-base.json}"
  run_phase mid --config "${MID_CONFIG:-mid.json}" --pretrained_model "$checkpoints/base/best_model"
  run_phase sft --pretrained_model "$checkpoints/mid/best_model" "$@"
  say "done in $((SECONDS - started)) s; talk to it: $train_sft chat --checkpoint $checkpoints/sft/best_model"
}
