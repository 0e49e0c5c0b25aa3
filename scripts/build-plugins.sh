#!/usr/bin/env bash
# Builds every example agent, plugins/NAME/ to plugins/NAME.wasm, whose sources are newer than that file.
# With --force, all of them.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
export GUEST_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}/guests

newer_sources() { # is any file an agent is built from newer than $2, or $2 missing?
  [ ! -f "$2" ] || find "$1" "$root/wit/rust" "$root/wit" -name target -prune -o -type f -newer "$2" -print -quit | grep -q .
}

for manifest in "$root"/plugins/*/Cargo.toml; do
  crate=$(dirname "$manifest")
  out=$crate.wasm
  if [ "${1:-}" = --force ] || newer_sources "$crate" "$out"; then
    "$root/scripts/build-guest.sh" "$crate" "$out"
  fi
done
