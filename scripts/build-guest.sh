#!/usr/bin/env bash
# Builds a folder to a component: scripts/build-guest.sh FOLDER [OUT.wasm]
#
# The same command everywhere, by what the folder holds:
#   Cargo.toml    Rust: an agent, or an ordinary program with a main; your own Rust where that has the target wasm32-wasip2, else one is set up
#   agent.py      Python, with componentize-py, which is set up; the module `sandclock` is there
#   agent.js      JavaScript, with componentize-js, which is set up
# OUT.wasm (default: FOLDER/NAME.wasm, and for Rust where cargo leaves it) is replaced in one step, so a daemon that watches its folder
# never sees half a file.
# GUEST_TARGET_DIR: where cargo keeps what it builds (default: FOLDER/target).
set -euo pipefail

scripts=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$scripts")

fail() {
  echo "build-guest: $*" >&2
  exit 1
}

usage() {
  echo "usage: build-guest.sh FOLDER [OUT.wasm], where FOLDER holds a Cargo.toml, an agent.py or an agent.js" >&2
  exit 2
}

# Puts the component $1 in its place $2.
place() {
  local part
  part=$(dirname "$2")/.$(basename "$2").$$
  mv -f "$1" "$part"
  mv -f "$part" "$2"
}

build_rust() {
  local target_dir=${GUEST_TARGET_DIR:-$folder/target} locked=() name built
  RUSTC=$("$scripts/setup-guest-rust.sh" | tail -1)
  export RUSTC
  # The guest's compiler may be older than the newest crates: take what the crate's rust-version allows.
  export CARGO_RESOLVER_INCOMPATIBLE_RUST_VERSIONS=fallback
  unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER
  if [ -f "$folder/Cargo.lock" ]; then locked=(--locked); fi
  cargo build --release --target wasm32-wasip2 --manifest-path "$folder/Cargo.toml" --target-dir "$target_dir" ${locked[@]+"${locked[@]}"}
  name=$(sed -n 's/^name *= *"\(.*\)".*/\1/p' "$folder/Cargo.toml" | head -1)
  # A library's file has its name as Rust writes it, a program's as it is.
  for built in "$target_dir/wasm32-wasip2/release/$name.wasm" "$target_dir/wasm32-wasip2/release/${name//-/_}.wasm"; do
    [ ! -f "$built" ] || break
  done
  [ -f "$built" ] || fail "$built was not built: the crate needs crate-type = [\"cdylib\"] under [lib], or a src/main.rs"
  if [ -z "$out" ]; then
    out=$built
  else
    cp "$built" "$work/component.wasm"
    place "$work/component.wasm" "$out"
  fi
}

build_python() {
  local componentize
  componentize=$("$scripts/setup-guest-python.sh" | tail -1)
  out=${out:-$folder/$(basename "$folder").wasm}
  "$componentize" -q -d "$root/wit" -w python componentize -p "$folder" -p "$root/wit/python" agent -o "$work/component.wasm"
  place "$work/component.wasm" "$out"
}

build_javascript() {
  local bin
  bin=$("$scripts/setup-guest-javascript.sh" | tail -1)
  out=${out:-$folder/$(basename "$folder").wasm}
  # From the root, for a module may import no file outside of the directory that componentize-js is started in.
  (cd "$root" && "$bin/componentize-js" "$folder/agent.js" --wit "$root/wit" -n javascript -d fetch-event -o "$work/component.wasm")
  place "$work/component.wasm" "$out"
}

[ $# -ge 1 ] && [ -d "$1" ] || usage
folder=$(cd "$1" && pwd)
out=${2:-}
work=$(mktemp -d "${TMPDIR:-/tmp}/sandclock-guest.XXXXXX")
trap 'rm -rf "$work"' EXIT
if [ -f "$folder/Cargo.toml" ]; then
  build_rust
elif [ -f "$folder/agent.py" ]; then
  build_python
elif [ -f "$folder/agent.js" ]; then
  build_javascript
else
  usage
fi
echo "$out"
