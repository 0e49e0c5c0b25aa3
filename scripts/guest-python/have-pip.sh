#!/usr/bin/env bash
# Succeeds where there are python3, 3.10 or newer, and its pip; installs them on Debian as root, and else says what to do.
set -euo pipefail

here() { python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && python3 -m pip --version >/dev/null 2>&1; }

if here; then exit 0; fi
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  echo "installing python3-pip" >&2
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends python3 python3-pip; } >&2
fi
here || {
  echo "no python3 of 3.10 or newer with pip on PATH: install it (on Debian 'apt-get install python3 python3-pip')" >&2
  exit 1
}
