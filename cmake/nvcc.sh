#!/bin/sh
# nvcc.sh REPORT COMMAND…: runs a compiler and keeps what it says in REPORT; shows it if it fails.
report=$1
shift
if ! "$@" 2>"$report.new"; then
  cat "$report.new" >&2
  exit 1
fi
mv "$report.new" "$report"
