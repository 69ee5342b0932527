#!/bin/bash
# scripts/make_gpu_bundle.sh [OUT.tar.gz]
#
# Packs what scripts/gpu_check.sh needs on a machine with a GPU and nothing else (gpu_bundle.tar.gz): the
# program, the plugin, tests and benches as built here, the system's libraries they need, the scripts. There:
# tar xzf gpu_bundle.tar.gz && gpu_bundle/gpu_check.sh. Build first: scripts/build.sh train_sft train_sft_cuda
# gpu_tests gpu_bench. Fails when the bundle is over 60 MB or needs a newer C library than $GLIBC (2.39, as
# Ubuntu 24.04 has it).
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in -h | --help) print_help "$0"; exit 0 ;; esac
out=${1:-gpu_bundle.tar.gz}
glibc=${GLIBC:-2.39}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bundle=$work/gpu_bundle
mkdir -p "$bundle/lib" "$bundle/bench"

files=("$build_dir/libtrain_sft_cuda.so" "$build_dir/tests/gpu/gpu_tests" "$build_dir/gpu_bench" "$build_dir/train_sft")
for file in "${files[@]}"; do
  [ -f "$file" ] || fail "$file is not there" "Run scripts/build.sh train_sft train_sft_cuda gpu_tests gpu_bench."
  strip --strip-debug -o "$bundle/$(basename "$file")" "$file"
  chmod 755 "$bundle/$(basename "$file")"
done
# What is neither torch's nor of every system.
for file in "${files[@]}"; do ldd "$file"; done | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u |
  grep -vE '/(torch|nvidia)/|/lib(c|m|dl|rt|pthread|util|gcc_s|stdc\+\+|resolv)\.so|/ld-linux' |
  while read -r library; do cp -L "$library" "$bundle/lib/"; done
cp "$root/scripts/gpu_check.sh" "$root/scripts/gpu_check.py" "$bundle/"
cp "$root/bench/gpu_reference.py" "$root/bench/shakespeare_torch.py" "$bundle/bench/"
cp -r "$root/configs" "$bundle/"

newest=$(for file in "$bundle"/lib/* "$bundle"/gpu_* "$bundle"/train_sft "$bundle"/*.so; do
  objdump -T "$file" 2>/dev/null || true
done | grep -oE 'GLIBC_[0-9.]+' | sort -uV | tail -1)
if [ "$(printf '%s\n%s\n' "${newest#GLIBC_}" "$glibc" | sort -V | tail -1)" != "$glibc" ]; then
  fail "the bundle needs $newest" "Build on a system with a C library no newer than $glibc (GLIBC=… for another limit)."
fi
tar -C "$work" -czf "$out" gpu_bundle
bytes=$(stat -c %s "$out")
[ "$bytes" -le 60000000 ] || fail "$out has $bytes bytes, at most 60,000,000" "Leave something out."
say "$out: $((bytes / 1000000)) MB, needs $newest"
