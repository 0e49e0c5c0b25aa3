#!/usr/bin/env bash
# Builds a Rust crate to a component: scripts/build-guest.sh CRATE_DIR [OUT.wasm]
#
# The same command everywhere: it uses your own Rust where that has the target wasm32-wasip2, and sets one up elsewhere.
# OUT.wasm is replaced in one step, so a daemon that watches its folder never sees half a file.
# GUEST_TARGET_DIR: where cargo keeps what it builds (default: CRATE_DIR/target).
set -euo pipefail

if [ $# -lt 1 ] || [ ! -f "$1/Cargo.toml" ]; then
  echo "usage: build-guest.sh CRATE_DIR [OUT.wasm], where CRATE_DIR holds a Cargo.toml" >&2
  exit 2
fi
scripts=$(cd "$(dirname "$0")" && pwd)
crate=$(cd "$1" && pwd)
target_dir=${GUEST_TARGET_DIR:-$crate/target}

RUSTC=$("$scripts/setup-guest-rust.sh" | tail -1)
export RUSTC
# The guest's compiler may be older than the newest crates: take what the crate's rust-version allows.
export CARGO_RESOLVER_INCOMPATIBLE_RUST_VERSIONS=fallback
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER

locked=()
if [ -f "$crate/Cargo.lock" ]; then locked=(--locked); fi
cargo build --release --target wasm32-wasip2 --manifest-path "$crate/Cargo.toml" --target-dir "$target_dir" ${locked[@]+"${locked[@]}"}

name=$(sed -n 's/^name *= *"\(.*\)".*/\1/p' "$crate/Cargo.toml" | head -1)
built=$target_dir/wasm32-wasip2/release/${name//-/_}.wasm
[ -f "$built" ] || { echo "build-guest: $built was not built: the crate needs crate-type = [\"cdylib\"] under [lib]" >&2; exit 1; }
if [ -n "${2:-}" ]; then
  part=$(dirname "$2")/.$(basename "$2").$$
  cp "$built" "$part"
  mv -f "$part" "$2"
fi
echo "${2:-$built}"
