#!/usr/bin/env bash
# Finds or sets up a rustc that builds for wasm32-wasip2, and prints its path as the last line.
#
#     RUSTC=$(scripts/setup-guest-rust.sh | tail -1)
#
# 1. The rustc on PATH, when it has the target (`rustup target add wasm32-wasip2`).
# 2. Else the one that an earlier call set up.
# 3. Else, on Linux x86-64 with apt, Debian's rustc and its wasm32 standard library: fetched through apt with private state
#    (its signatures are checked; the machine's own settings and packages stay as they are), unpacked into a cache directory
#    and started with their own loader. About 200 MB to fetch, 800 MB on disk; needs no root.
#
# GUEST_RUST_DIR     where to unpack (default: ~/.cache/sandclock/guest-rust-SUITE)
# GUEST_RUST_SUITE   the Debian release to take it from (default: trixie)
# GUEST_RUST_MIRROR  the Debian archive (default: the one in apt's sources)
# GUEST_RUST_OWN=1   skip step 1
set -euo pipefail

target=wasm32-wasip2
suite=${GUEST_RUST_SUITE:-trixie}
prefix=${GUEST_RUST_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/sandclock/guest-rust-$suite}

fail() {
  echo "setup-guest-rust: $*" >&2
  exit 1
}

# The compiler starts, and has the target's standard library.
works() {
  local dir
  [ -x "$1" ] || return 1
  dir=$("$1" --print target-libdir --target "$target" 2>/dev/null) || return 1
  compgen -G "$dir/libstd-*.rlib" >/dev/null
}

own=$(command -v rustc || true)
if [ -z "${GUEST_RUST_OWN:-}" ] && works "$own"; then
  echo "$own"
  exit 0
fi
if works "$prefix/bin/rustc"; then
  echo "$prefix/bin/rustc"
  exit 0
fi

[ "$(uname -sm)" = "Linux x86_64" ] || fail "no compiler for $target: run 'rustup target add $target' and try again"
for tool in apt-get apt-cache dpkg-deb flock; do
  command -v "$tool" >/dev/null || fail "no compiler for $target, and no $tool to set one up with: run 'rustup target add $target' and try again"
done
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -r "$keyring" ] || fail "no $keyring: install debian-archive-keyring, or run 'rustup target add $target'"
command -v cargo >/dev/null || fail "no cargo: install Rust 1.95 or newer from https://rustup.rs"

mkdir -p "$(dirname "$prefix")"
exec 9>"$prefix.lock"
flock 9
if works "$prefix/bin/rustc"; then
  echo "$prefix/bin/rustc"
  exit 0
fi

mirror=${GUEST_RUST_MIRROR:-$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
  grep -Eo '(https?|file)://[^ ]+/debian/?( |$)' | head -1 | tr -d ' ' || true)}
mirror=${mirror:-http://deb.debian.org/debian}
echo "setting up a Rust compiler for $target from Debian $suite (about 200 MB to fetch, once)" >&2

tmp=$prefix.partial
rm -rf "$tmp"
mkdir -p "$tmp"/{debs,root,bin} "$tmp"/apt/{state/lists/partial,cache/archives/partial,etc/apt.conf.d,etc/preferences.d,etc/trusted.gpg.d}
: >"$tmp/apt/status"
echo "deb [signed-by=$keyring] $mirror $suite main" >"$tmp/apt/etc/sources.list"
apt=(-q=2 -o Dir::Etc="$tmp/apt/etc" -o Dir::State="$tmp/apt/state" -o Dir::State::status="$tmp/apt/status"
  -o Dir::Cache="$tmp/apt/cache" -o APT::Architecture=amd64 -o APT::Architectures::=amd64 -o APT::Sandbox::User=
  -o Acquire::Languages=none -o Acquire::Retries=3 -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false)
apt-get "${apt[@]}" update >&2 || fail "apt could not read $mirror $suite: set GUEST_RUST_MIRROR to a Debian archive"

# What rustc loads, and no more: the machine's own C compiler links build scripts.
libraries='libllvm[0-9]|libc6$|libgcc-s1$|libstdc\+\+6$|libz3-4$|libxml2|libicu[0-9]+$|libedit2$|libffi[0-9]+$|liblzma5$|libtinfo6$|libbsd0$|libmd0$|zlib1g$|libzstd1$'
mapfile -t packages < <(apt-cache "${apt[@]}" depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
  --no-replaces --no-enhances --no-pre-depends rustc libstd-rust-dev-wasm32 libstd-rust-dev |
  grep -E '^[a-z0-9]' | sort -u | grep -E "^(rustc\$|libstd-rust|$libraries)")
(cd "$tmp/debs" && apt-get "${apt[@]}" download "${packages[@]}" >&2)
for deb in "$tmp"/debs/*.deb; do dpkg-deb -x "$deb" "$tmp/root"; done
rm -rf "$tmp/debs" "$tmp/apt" "$tmp/root/usr/share"

# Only this process gets the unpacked libraries; what it starts (cc, linkers) keeps the machine's.
cat >"$tmp/bin/rustc" <<'WRAPPER'
#!/bin/sh
root=$(dirname "$(readlink -f "$0")")/../root
lib=$root/usr/lib/x86_64-linux-gnu
exec "$lib/ld-linux-x86-64.so.2" --library-path "$lib:$root/lib/x86_64-linux-gnu:$root/usr/lib" "$root/usr/bin/rustc" "$@"
WRAPPER
chmod +x "$tmp/bin/rustc"

# The wasm linkers: rustup's toolchains ship them; a distribution's rustc takes lld and the crate.
bin=$tmp/root/usr/lib/rustlib/x86_64-unknown-linux-gnu/bin
mkdir -p "$bin"
ours=$(rustc --print sysroot 2>/dev/null || true)/lib/rustlib/x86_64-unknown-linux-gnu/bin
if [ -x "$ours/rust-lld" ] && [ -x "$ours/wasm-component-ld" ]; then
  cp -rL "$ours"/{rust-lld,wasm-component-ld,gcc-ld} "$bin/"
else
  lld=$(command -v wasm-ld || command -v wasm-ld-19 || true)
  [ -n "$lld" ] || fail "no wasm linker: install lld, or Rust from https://rustup.rs"
  cargo install --locked --root "$tmp/linker" wasm-component-ld >&2
  mv "$tmp/linker/bin/wasm-component-ld" "$bin/"
  ln -s "$lld" "$bin/wasm-ld"
  ln -s wasm-ld "$bin/rust-lld"
fi

rm -rf "$prefix"
mv "$tmp" "$prefix"
works "$prefix/bin/rustc" || fail "the unpacked compiler in $prefix does not start: remove that directory and try again"
"$prefix/bin/rustc" --version >&2
echo "$prefix/bin/rustc"
