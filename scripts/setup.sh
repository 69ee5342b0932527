#!/bin/bash
# scripts/setup.sh [--tests]
#
# Installs what the build needs: Debian packages, and LibTorch (torch, pinned) in .venv. With
# --tests also the Python packages that the tests compare with. Works on Debian 12 or later and
# Ubuntu 22.04 or later, as root or with sudo. Can be run again: what is there is left alone.
#
# Environment: TORCH_ROOT=<folder of an installed torch package> uses that LibTorch.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

torch_version=2.11.0
torch_disk_gib=7
packages=(g++ cmake ninja-build ccache mold pkg-config git ca-certificates python3 python3-venv
  libsentencepiece-dev libspdlog-dev libfmt-dev libcli11-dev nlohmann-json3-dev libxxhash-dev
  libzstd-dev zlib1g-dev libpcre2-dev libutf8proc-dev libgloo-dev libgtest-dev libgmock-dev)

with_tests=false
for argument in "$@"; do
  case $argument in
    --tests) with_tests=true ;;
    -h | --help) print_help "$0"; exit 0 ;;
    *) fail "unknown argument '$argument'" "Use: scripts/setup.sh [--tests]" 2 ;;
  esac
done

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    fail "installing packages needs root, and there is no sudo" \
      "Run as root: apt-get install ${missing[*]}"
  fi
}

check_system() {
  local id="" version=""
  if [ -r /etc/os-release ]; then
    id=$(. /etc/os-release && echo "${ID:-}")
    version=$(. /etc/os-release && echo "${VERSION_ID:-0}")
  fi
  command -v apt-get >/dev/null || fail "no apt-get on this system ('${id:-unknown}')" \
    "Use Debian 12+ or Ubuntu 22.04+ (a container will do)."
  case $id in
    debian) [ "${version%%.*}" -ge 12 ] || fail "Debian $version is too old" "Use Debian 12 or later." ;;
    ubuntu)
      [ "${version%%.*}" -ge 22 ] || fail "Ubuntu $version is too old" "Use Ubuntu 22.04 or later."
      # Its default g++ 11 knows neither all of C++20 nor mold.
      [ "${version%%.*}" -gt 22 ] || packages+=(g++-12)
      ;;
    *) say "untested system '$id $version': going on as for Debian" ;;
  esac
  case $(uname -m) in
    x86_64) ;;
    *) fail "this machine is $(uname -m); the fast kernels are written for x86-64" "Use an x86-64 machine." ;;
  esac
}

install_packages() {
  missing=()
  local package
  for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
      missing+=("$package")
  done
  if [ ${#missing[@]} = 0 ]; then
    say "Debian packages: all ${#packages[@]} there"
    return
  fi
  say "Debian packages: installing ${missing[*]}"
  local log
  log=$(mktemp)
  # One broken third-party source must not stop us: what matters is whether the install works.
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -q update >"$log" 2>&1 </dev/null ||
    say "apt-get update complained; trying to install all the same"
  if ! as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends \
    -o Dpkg::Use-Pty=0 install "${missing[@]}" >>"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    fail "apt-get could not install: ${missing[*]}" \
      "Check the network and /etc/apt (on Ubuntu the 'universe' component must be on), then run this again."
  fi
  rm -f "$log"
}

# The version of an installed Python package, without importing it; empty when it is not there.
python_version_of() {
  "$root/.venv/bin/python" - "$1" 2>/dev/null <<'PY' || true
import importlib.metadata, sys
print(importlib.metadata.version(sys.argv[1]).split("+")[0])
PY
}

make_venv() {
  if "$root/.venv/bin/python" -m pip --version >/dev/null 2>&1; then return; fi
  if [ -e "$root/.venv" ] || [ -L "$root/.venv" ]; then
    fail ".venv is there but its python does not run (moved, or made by a removed Python?)" \
      "Remove it (rm -r '$root/.venv') and run this again."
  fi
  say "Python environment: making .venv"
  python3 -m venv "$root/.venv" || {
    rm -rf "$root/.venv"
    fail "python3 -m venv failed" "Install python3-venv and check free disk space, then run this again."
  }
}

pip_install() {
  local bar=off
  [ -t 2 ] && bar=on
  "$root/.venv/bin/python" -m pip install --no-input --disable-pip-version-check --quiet \
    --progress-bar "$bar" "$@" >&2 </dev/null ||
    fail "pip could not install $*" \
      "See its message above: usually the network, a proxy or a package mirror (PIP_INDEX_URL), or a full disk."
}

install_torch() {
  if [ -n "${TORCH_ROOT:-}" ]; then
    [ -e "$TORCH_ROOT/lib/libtorch_cpu.so" ] || fail "TORCH_ROOT=$TORCH_ROOT has no lib/libtorch_cpu.so" \
      "Give the folder of an installed torch package, or unset TORCH_ROOT."
    say "LibTorch: $TORCH_ROOT (from TORCH_ROOT)"
    $with_tests || return 0  # The tests compare with torch in Python too.
  fi
  make_venv
  local found
  found=$(python_version_of torch)
  if [ "$found" = "$torch_version" ]; then
    say "LibTorch: torch $found in .venv"
    return
  fi
  local free_gib
  free_gib=$(($(df -Pk "$root/.venv/." | awk 'NR == 2 {print $4}') / 1048576))
  [ "$free_gib" -ge $torch_disk_gib ] || fail "torch needs about $torch_disk_gib GiB of disk; $free_gib GiB are free" \
    "Free some space, or make .venv a link to a folder on a larger disk."
  say "LibTorch: installing torch $torch_version in .venv (a download of about 2.5 GiB, minutes)"
  pip_install "torch==$torch_version"
}

install_test_packages() {
  local requirements=$root/tests/requirements.txt stamp=$root/.venv/train_sft_tests.txt
  if cmp -s "$requirements" "$stamp"; then
    say "Python packages of the tests: there"
    return
  fi
  say "Python packages of the tests: checking and installing"
  pip_install -r "$requirements"
  cp "$requirements" "$stamp"
}

check_system
install_packages
install_torch
if $with_tests; then install_test_packages; fi
say "set-up done in $((SECONDS - started)) s"
