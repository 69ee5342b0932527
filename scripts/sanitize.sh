#!/bin/bash
# scripts/sanitize.sh [address|thread]
#
# Builds the parts without LibTorch and their unit tests under sanitizers, with clang where there is
# one, and runs them: under AddressSanitizer and UBSan, then under ThreadSanitizer; one of them when it
# is named.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in
  -h | --help) print_help "$0"; exit 0 ;;
esac
export ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
compiler=$(command -v clang++-14 || command -v clang++ || command -v c++)
code=0
for kind in ${1:-address thread}; do
  sanitizers=$kind
  [ "$kind" != address ] || sanitizers=address,undefined
  build_dir=$root/build-$kind
  cmake -S "$root" -B "$build_dir" -G Ninja -DCMAKE_CXX_COMPILER="$compiler" -DTRAIN_SFT_TORCH=OFF \
    -DTRAIN_SFT_SANITIZE=$sanitizers -DTRAIN_SFT_PRECOMPILED=OFF >&2
  ninja -C "$build_dir" ${NINJA_FLAGS:-} >&2
  say "torch-free tests under $sanitizers"
  ctest --test-dir "$build_dir" --output-on-failure --no-tests=error -j "$(nproc)" </dev/null || code=$?
done
exit $code
