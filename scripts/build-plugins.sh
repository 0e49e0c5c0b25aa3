#!/usr/bin/env bash
# Builds every example agent, plugins/NAME/ to plugins/NAME.wasm, whose sources are newer than that file: build-plugins.sh [--force] [NAME…]
# With --force, all of them; with names, only those.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
export GUEST_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}/guests
force=
if [ "${1:-}" = --force ]; then
  force=1
  shift
fi

newer_sources() { # is any file that the folder $1 is built from newer than the component $2, or $2 missing?
  local sources=("$1" "$root"/wit/*.wit "$root/wit/deps")
  if [ -f "$1/Cargo.toml" ]; then
    sources+=("$root/wit/rust")
  elif [ -f "$1/agent.py" ]; then
    sources+=("$root/wit/python" "$root/scripts/guest-python")
  else
    sources+=("$root/wit/javascript" "$root/scripts/guest-javascript")
  fi
  [ ! -f "$2" ] || find "${sources[@]}" \( -name target -o -name __pycache__ \) -prune -o -type f -newer "$2" -print -quit | grep -q .
}

built_from() { # does this folder hold an agent?
  [ -f "$1/Cargo.toml" ] || [ -f "$1/agent.py" ] || [ -f "$1/agent.js" ]
}

folders=()
for name in "$@"; do
  built_from "$root/plugins/$name" || {
    echo "build-plugins: plugins/$name is no folder with a Cargo.toml, an agent.py or an agent.js" >&2
    exit 2
  }
  folders+=("$root/plugins/$name")
done
[ $# -gt 0 ] || folders=("$root"/plugins/*/)

for folder in "${folders[@]}"; do
  folder=${folder%/}
  built_from "$folder" || continue
  if [ -n "$force" ] || newer_sources "$folder" "$folder.wasm"; then
    "$root/scripts/build-guest.sh" "$folder" "$folder.wasm"
  fi
done
