# Sourced by the scripts here: where the project is, and how they speak.
# shellcheck shell=bash
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
build_dir=${BUILD_DIR:-$root/build}
started=$SECONDS

say() { printf '==> %s\n' "$*" >&2; }
# fail WHAT REMEDY [EXIT_CODE]
fail() {
  printf 'error: %s\n       %s\n' "$1" "$2" >&2
  exit "${3:-1}"
}
# The comment at the head of a script is its --help.
print_help() { sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$1"; }
