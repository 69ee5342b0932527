#!/bin/bash
# scripts/fuzz.sh [SECONDS] [TARGET...]
#
# Fuzzes the readers of foreign files with libFuzzer under AddressSanitizer and UBSan: SECONDS of
# processor time each (600), all of them unless some are named. Needs clang. The inputs found so far stay in
# build-fuzz/corpus. A finding is left in build-fuzz/findings; once mended, it belongs in
# tests/fuzz/regressions/TARGET/, where the ordinary test fuzz_replay reads it.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in
  -h | --help) print_help "$0"; exit 0 ;;
esac
seconds=${1:-600}
[ $# -eq 0 ] || shift
clang=$(command -v clang++-14 || command -v clang++) || fail "clang++ is missing" "apt-get install clang"
build_dir=${BUILD_DIR:-$root/build-fuzz}

cmake -S "$root" -B "$build_dir" -G Ninja -DCMAKE_CXX_COMPILER="$clang" -DTRAIN_SFT_TORCH=OFF \
  -DTRAIN_SFT_FUZZ=ON -DTRAIN_SFT_SANITIZE=address,undefined -DTRAIN_SFT_PRECOMPILED=OFF >&2
ninja -C "$build_dir" ${NINJA_FLAGS:-} fuzz_readers write_seeds >&2
findings=$build_dir/findings
mkdir -p "$findings"
targets=$("$(find "$build_dir" -name write_seeds -type f)" "$build_dir/seeds")
[ $# -eq 0 ] || targets=$*
fuzzer=$(find "$build_dir" -name fuzz_readers -type f)
# A length that is believed shows as a wish for memory: what a file may ask for is bounded by its size.
export ASAN_OPTIONS=detect_leaks=1
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
code=0
TIMEFORMAT='%U %S'
for target in $targets; do
  corpus=$build_dir/corpus/$target
  log=$build_dir/$target.log
  mkdir -p "$corpus"
  regressions=$root/tests/fuzz/regressions/$target
  [ -d "$regressions" ] || regressions=
  verdict="no finding" runs=0 used=0
  # On a busy machine the clock says little: time on a processor counts.
  while [ "$used" -lt "$seconds" ] && [ "$verdict" = "no finding" ]; do
    # shellcheck disable=SC2086
    { time TRAIN_SFT_FUZZ_TARGET=$target "$fuzzer" -max_total_time=$((seconds - used)) -max_len=16384 \
        -timeout=0 -entropic=0 -print_funcs=0 -rss_limit_mb=3000 -malloc_limit_mb=1500 \
        -artifact_prefix="$findings/$target-" \
        -print_final_stats=1 "$corpus" "$build_dir/seeds/$target" $regressions >"$log" 2>&1; } 2>"$log.time" ||
      { verdict="FINDING, see $log"; code=1; }
    runs=$((runs + $(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -1 | grep . || echo 0)))
    used=$((used + $(awk '{ printf "%d", $1 + $2 + 1 }' "$log.time")))
  done
  covered=$(grep -o 'cov: [0-9]*' "$log" | tail -1 | tr -dc 0-9 || true)
  printf '%-16s %10s runs in %s s, %s edges: %s\n' "$target" "$runs" "$used" "${covered:-0}" "$verdict"
done
exit $code
