#!/bin/bash
# scripts/test.sh [ctest options]
#
# Sets up (scripts/setup.sh --tests), builds everything and runs every test through ctest.
# Options go to ctest: -L unit (labels unit, golden, cli, fault, slow, real_model), -R NAME, …
# -LE 'slow|real_model' leaves out what takes minutes, and what needs a model that
# scripts/fetch_smollm2.sh fetches.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in
  -h | --help) print_help "$0"; exit 0 ;;
esac
"$root/scripts/setup.sh" --tests
"$root/scripts/build.sh" all
say "running the tests"
# Tests run side by side: idle OpenMP threads shall sleep, not spin the others out.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
code=0
ctest --test-dir "$build_dir" --output-on-failure --no-tests=error -j "$(nproc)" "$@" </dev/null ||
  code=$?
minutes=$(((SECONDS - started) / 60)) seconds=$(((SECONDS - started) % 60))
if [ $code != 0 ]; then
  say "FAILED after ${minutes} min ${seconds} s; again with output: ctest --test-dir $build_dir --rerun-failed --output-on-failure"
  exit $code
fi
say "all tests passed; set-up, build and tests took ${minutes} min ${seconds} s"
