#!/bin/bash
# scripts/gpu_check.sh [OUT]
#
# Everything there is to verify and measure on a GPU, within 8 minutes; a table at the end, and
# OUT/gpu_check.json (OUT: gpu_check_out). Runs out of the bundle of scripts/make_gpu_bundle.sh on a bare
# machine with a GPU, CUDA 13 and a python3 that has torch 2.11 (or TORCH_PYTHON=<python>), or out of a built
# tree. No network, nothing installed. Exit status 1 when a part failed; every part reports on its own.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
case ${1:-} in -h | --help) sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;; esac
python=${TORCH_PYTHON:-python3}
torch=$("$python" -c 'import os, torch; print(os.path.dirname(torch.__file__))') || {
  echo "gpu_check: '$python' has no torch; set TORCH_PYTHON to one that has torch 2.11" >&2
  exit 2
}
libraries=$here/lib:$torch/lib
for folder in "$torch"/../nvidia/*/lib; do [ -d "$folder" ] && libraries=$libraries:$(cd "$folder" && pwd -P); done
export GPU_CHECK_LIBRARIES=$libraries PYTHONUNBUFFERED=1
exec "$python" "$here/gpu_check.py" "${1:-gpu_check_out}"
