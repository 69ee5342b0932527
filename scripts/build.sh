#!/bin/bash
# scripts/build.sh [target…]
#
# Configures and builds with CMake and Ninja; without a target, the program build/train_sft.
# `all` builds the tests too. Run scripts/setup.sh first.
#
# Environment: TORCH_ROOT=<folder of a torch package>  another LibTorch than .venv's
#              BUILD_DIR=<folder>                      another folder than build/
#              CMAKE_ARGS="-D…"                        more for CMake
#              JOBS=N                                  compile jobs (default: by cores and memory)
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in
  -h | --help) print_help "$0"; exit 0 ;;
  -*) fail "unknown argument '$1'" "Use: scripts/build.sh [target…]; pass options to CMake in CMAKE_ARGS." 2 ;;
esac
for tool in cmake ninja g++; do
  command -v $tool >/dev/null || fail "$tool is not installed" "Run scripts/setup.sh."
done

# A file that includes torch's headers needs about 1.5 GiB while it compiles.
if [ -z "${JOBS:-}" ]; then
  memory_jobs=$(($(awk '/MemAvailable/ {print $2}' /proc/meminfo) / 1572864))
  JOBS=$(nproc)
  [ "$memory_jobs" -ge "$JOBS" ] || JOBS=$((memory_jobs > 0 ? memory_jobs : 1))
fi

configure=(cmake -S "$root" -B "$build_dir" -G Ninja)
if [ -n "${TORCH_ROOT:-}" ]; then configure+=("-DTORCH_ROOT=$TORCH_ROOT"); fi
# g++ 12 is asked for by name only where the default is older (Ubuntu 22.04).
if [ -z "${CXX:-}" ] && [ "$(g++ -dumpversion | cut -d. -f1)" -lt 12 ]; then
  command -v g++-12 >/dev/null || fail "g++ $(g++ -dumpversion) is too old" "Run scripts/setup.sh (installs g++-12)."
  configure+=(-DCMAKE_CXX_COMPILER=g++-12)
fi
# shellcheck disable=SC2206
configure+=(${CMAKE_ARGS:-})

mkdir -p "$build_dir"
say "configuring $build_dir"
if ! "${configure[@]}" >"$build_dir/configure.log" 2>&1; then
  tail -n 30 "$build_dir/configure.log" >&2
  fail "CMake could not configure the build" "See above; after a set-up change try: rm -r '$build_dir'."
fi

targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(train_sft)
say "building ${targets[*]} with $JOBS jobs"
NINJA_STATUS='[%f/%t, %e s] ' cmake --build "$build_dir" -j "$JOBS" --target "${targets[@]}" >&2 ||
  fail "the build failed" "The first error above says why. If the compiler was killed, memory ran out: JOBS=1."
say "built in $((SECONDS - started)) s"
