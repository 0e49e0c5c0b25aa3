#!/usr/bin/env bash
# Becomes one server, on a port of 127.0.0.1 and on what DIR keeps; what a new one needs is made first.
#
#     scripts/servers/exec.sh postgres|redis|mongodb|s3 DIR PORT [ARGUMENTS OF THE SERVER…]
#
# Its durability is the one of production: PostgreSQL and mongod sync what they acknowledge, Redis syncs its log each second.
# PostgreSQL's superuser is `sandclock`, with the password in DIR/password; so are the key id and the secret of the S3 server, whose bucket
# `sandclock` is a directory. The variables of install.sh say where the servers are.
#
# SANDCLOCK_TEST_DIE_WITH_PARENT=1   the server ends when the process that started it has ended, however that came (on Linux)
set -euo pipefail

kind=$1 dir=$2 port=$3
shift 3
data=$dir/data
mkdir -p "$data"

fail() {
  echo "servers: $*" >&2
  exit 1
}

# What stands before a command that runs as $user, none for who runs this, and gets signal $1 when the parent ends, none for no signal.
user=
prefix() {
  before=()
  [ -z "$user" ] || before+=(--reuid "$user" --regid "$(id -g "$user")" --clear-groups)
  [ -z "$1" ] || [ -z "${SANDCLOCK_TEST_DIE_WITH_PARENT:-}" ] || ! command -v setpriv >/dev/null || before+=(--pdeathsig "$1")
  [ ${#before[@]} = 0 ] || before=(setpriv "${before[@]}")
}

become() {
  exec ${before[@]+"${before[@]}"} "$@"
}

make_password() {
  [ -s "$dir/password" ] || (umask 077 && od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >"$dir/password")
}

postgres() {
  local bin=$SANDCLOCK_TEST_POSTGRES_BIN
  make_password
  if [ "$(id -u)" = 0 ]; then # PostgreSQL refuses to be root
    user=postgres
    getent passwd "$user" >/dev/null || user=nobody
    chmod 711 "$dir"
    chown "$user" "$data" "$dir/password"
  fi
  cd "$dir"
  prefix ""
  if [ ! -f "$data/PG_VERSION" ]; then
    ${before[@]+"${before[@]}"} test -w "$data" || fail "the user ${user:-$(id -un)} cannot write to $data: set TMPDIR to a directory that it can reach"
    # The collation is one of people, as most databases have it: what needs the order of bytes must ask for it.
    local collation=(--locale=C.UTF-8)
    [ "$("$bin/postgres" --version | sed 's/^[^0-9]*\([0-9]*\).*/\1/')" -lt 15 ] || collation+=(--locale-provider=icu --icu-locale=en-US)
    ${before[@]+"${before[@]}"} "$bin/initdb" -D "$data" -U sandclock --pwfile="$dir/password" --auth=scram-sha-256 -E UTF8 \
      "${collation[@]}" --no-sync >"$dir/initdb.log" 2>&1 || fail "initdb failed: $(tail -3 "$dir/initdb.log")"
  fi
  prefix QUIT
  become "$bin/postgres" -D "$data" -p "$port" -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=400 "$@"
}

redis() {
  prefix KILL
  become "$SANDCLOCK_TEST_REDIS_BIN" --port "$port" --bind 127.0.0.1 --dir "$data" --appendonly yes --appendfsync everysec \
    --maxmemory-policy noeviction "$@"
}

mongodb() {
  prefix KILL
  become "$SANDCLOCK_TEST_MONGOD_BIN" --port "$port" --bind_ip 127.0.0.1 --nounixsocket --dbpath "$data" --replSet sandclock \
    --wiredTigerCacheSizeGB 0.25 --oplogSize 256 --setParameter diagnosticDataCollectionEnabled=false \
    --setParameter shutdownTimeoutMillisForSignaledShutdown=100 "$@"
}

# It checks signatures. Its keys come by the environment, so that they are in no list of processes.
s3() {
  make_password
  mkdir -p "$data/sandclock"
  prefix KILL
  RCLONE_CONFIG=/dev/null RCLONE_AUTH_KEY="\"sandclock,$(cat "$dir/password")\"" \
    become "$SANDCLOCK_TEST_S3_BIN" serve s3 --addr "127.0.0.1:$port" --no-cleanup "$data" "$@"
}

case $kind in
postgres | redis | mongodb | s3) "$kind" "$@" ;;
*) fail "there is no server '$kind': it is one of postgres, redis, mongodb, s3" ;;
esac
