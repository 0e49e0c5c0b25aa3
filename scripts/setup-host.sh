#!/usr/bin/env bash
# What building sandclock needs of the machine: cargo and a C compiler. Installs the second on Debian as root, and else says what to do.
set -euo pipefail

fail() {
  echo "setup-host: $*" >&2
  exit 1
}

command -v cargo >/dev/null || fail "no cargo on PATH: install Rust 1.95 or newer from https://rustup.rs"

have=$(cargo --version | sed -n 's/^cargo \([0-9.]*\).*/\1/p')
need=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml" | head -1)
[ "$(printf '%s\n' "$need" "$have" | sort -V | head -1)" = "$need" ] || fail "cargo is $have, and sandclock needs $need: run 'rustup update stable'"

command -v cc >/dev/null && exit 0
command -v apt-get >/dev/null || fail "no C compiler 'cc' on PATH: install gcc or clang with your system's package manager"
[ "$(id -u)" = 0 ] || fail "no C compiler 'cc' on PATH: run 'sudo apt-get install -y gcc libc6-dev'"
echo "installing a C compiler" >&2
apt-get update -q >&2
DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends gcc libc6-dev >&2
