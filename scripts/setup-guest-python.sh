#!/usr/bin/env bash
# Finds or sets up the componentize-py of scripts/guest-python/requirements.txt, and prints its path as the last line.
#
#     componentize=$(scripts/setup-guest-python.sh | tail -1)
#
# It is installed with pip into a cache directory of its own: 17 MB to fetch, 75 MB on disk, once, without root. The machine's Python
# stays as it is; on Debian, as root, what is missing of python3 and python3-pip is installed.
#
# GUEST_PYTHON_DIR   where to install (default: ~/.cache/sandclock/guest-python-VERSION)
set -euo pipefail

scripts=$(cd "$(dirname "$0")" && pwd)
requirements=$scripts/guest-python/requirements.txt
version=$(sed -n 's/^componentize-py==//p' "$requirements")
prefix=${GUEST_PYTHON_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/sandclock/guest-python-$version}

fail() {
  echo "setup-guest-python: $*" >&2
  exit 1
}

works() { [ "$("$prefix/componentize-py" --version 2>/dev/null)" = "componentize-py $version" ]; }

if ! works; then
  "$scripts/guest-python/have-pip.sh" || fail "no componentize-py without Python 3.10 or newer and its pip"
  mkdir -p "$(dirname "$prefix")"
  exec 9>"$prefix.lock"
  ! command -v flock >/dev/null || flock 9
fi
if ! works; then
  echo "setting up componentize-py $version (17 MB to fetch, once)" >&2
  tmp=$(mktemp -d "$prefix.partial.XXXXXX")
  trap 'rm -rf "$tmp"' EXIT
  PIP_ROOT_USER_ACTION=ignore python3 -m pip install -q --disable-pip-version-check --no-warn-script-location --only-binary :all: \
    --target "$tmp/lib" -r "$requirements" >&2 || fail "pip could not install componentize-py $version: its messages are above"
  cat >"$tmp/componentize-py" <<'WRAPPER'
#!/bin/sh
lib=$(dirname "$0")/lib
PYTHONPATH=$lib exec python3 "$lib/bin/componentize-py" "$@"
WRAPPER
  chmod 755 "$tmp" "$tmp/componentize-py"
  rm -rf "$prefix"
  mv "$tmp" "$prefix"
  works || fail "componentize-py in $prefix does not start: remove that directory and try again"
fi
echo "$prefix/componentize-py"
