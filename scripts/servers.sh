#!/usr/bin/env bash
# PostgreSQL, Redis, mongod and an S3 server for tests: started on free ports of 127.0.0.1 in a directory of their own, and stopped with it.
#
#     scripts/servers.sh run -- COMMAND…    runs COMMAND beside them, and ends as it ends
#     eval "$(scripts/servers.sh start DIR [PID])"    starts them until `stop DIR`, or until process PID has ended; DIR is made
#     scripts/servers.sh stop DIR
#
# The environment tells where they are: SANDCLOCK_TEST_POSTGRES_URL, SANDCLOCK_TEST_REDIS_URL, SANDCLOCK_TEST_MONGODB_URL,
# SANDCLOCK_TEST_S3_URL (http://KEY_ID:SECRET@HOST:PORT/BUCKET), and for tests with a server of their own what install.sh prints. In place of
# a server that cannot be had stands SANDCLOCK_TEST_…_MISSING, a sentence.
#
# SANDCLOCK_TEST_SKIP   a comma list of postgres, redis, mongodb, s3: those are neither installed nor started
# TMPDIR                where `run` makes the directory (default: /tmp)
set -euo pipefail

scripts=$(cd "$(dirname "$0")" && pwd)
patience_ticks=1200 # of 50 ms
kinds=()
pids=()
ports=()
dir=
skip=${SANDCLOCK_TEST_SKIP:-}

fail() {
  echo "servers: $*" >&2
  exit 1
}

usage() {
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

# Below the ports that systems give to outgoing connections, so that a server finds its own free when it comes back.
free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  echo "$port"
}

# Starts server number $1 on a free port.
launch() {
  local kind=${kinds[$1]} detached=()
  ports[$1]=$(free_port)
  mkdir -p "$dir/$kind"
  # A session of its own: what a terminal sends to the tests is not for the servers.
  ! command -v setsid >/dev/null || detached=(setsid)
  SANDCLOCK_TEST_DIE_WITH_PARENT=1 ${detached[@]+"${detached[@]}"} "$scripts/servers/exec.sh" "$kind" "$dir/$kind" "${ports[$1]}" \
    >"$dir/$kind/log" 2>&1 </dev/null &
  pids[$1]=$!
}

# By what the server itself has written, so that no other one on that port is taken for it.
ready() {
  local kind=${kinds[$1]}
  case $kind in
  postgres) [ "$(sed -n 8p "$dir/$kind/data/postmaster.pid" 2>/dev/null | tr -d ' ')" = ready ] ;;
  redis) grep -q "Ready to accept connections" "$dir/$kind/log" ;;
  s3) grep -q "Starting s3 server on" "$dir/$kind/log" ;;
  mongodb) grep -q '"Waiting for connections"' "$dir/$kind/log" && python3 "$scripts/servers/replica_set.py" "${ports[$1]}" ;;
  esac
}

alive() { kill -0 "${pids[$1]}" 2>/dev/null; }

# Waits until server number $1 can be used; somebody else may have been faster to its port.
await() {
  local kind=${kinds[$1]} tick again=0
  for ((tick = 0; tick < patience_ticks; tick++)); do
    if ready "$1"; then return; fi
    if ! alive "$1"; then
      if [ "$again" -lt 5 ] && grep -qi "address already in use" "$dir/$kind/log"; then
        again=$((again + 1))
        launch "$1"
      else
        break
      fi
    fi
    sleep 0.05
  done
  fail "$kind did not start: $(tail -5 "$dir/$kind/log")"
}

url() {
  case ${kinds[$1]} in
  postgres) echo "postgres://sandclock:$(cat "$dir/postgres/password")@127.0.0.1:${ports[$1]}/postgres" ;;
  redis) echo "redis://127.0.0.1:${ports[$1]}" ;;
  s3) echo "http://sandclock:$(cat "$dir/s3/password")@127.0.0.1:${ports[$1]}/sandclock" ;;
  mongodb) echo "mongodb://127.0.0.1:${ports[$1]}/?replicaSet=sandclock" ;;
  esac
}

# Starts what is wanted and can be had, and exports where it is.
start_all() {
  local kind at missing
  unset SANDCLOCK_TEST_{POSTGRES,REDIS,MONGODB,S3}_{URL,MISSING}
  for kind in ${skip//,/ }; do
    case $kind in postgres | redis | mongodb | s3) ;; *) fail "SANDCLOCK_TEST_SKIP names '$kind': it is a comma list of postgres, redis, mongodb, s3" ;; esac
  done
  chmod 711 "$dir"
  eval "$("$scripts/servers/install.sh")"
  for kind in postgres redis mongodb s3; do
    case ,$skip, in *,$kind,*) continue ;; esac
    missing=SANDCLOCK_TEST_$(tr a-z A-Z <<<"$kind")_MISSING
    [ -n "${!missing:-}" ] || kinds+=("$kind")
  done
  for at in ${kinds[@]+"${!kinds[@]}"}; do launch "$at"; done
  for at in ${kinds[@]+"${!kinds[@]}"}; do
    await "$at"
    export "SANDCLOCK_TEST_$(tr a-z A-Z <<<"${kinds[$at]}")_URL=$(url "$at")"
  done
}

# Their data goes with them, so they end at once.
stop_all() {
  local at
  for at in ${pids[@]+"${!pids[@]}"}; do
    alive "$at" || echo "servers: ${kinds[$at]} ended before its time: $(tail -5 "$dir/${kinds[$at]}/log")" >&2
    if [ "${kinds[$at]}" = postgres ] && ready "$at"; then
      kill -s QUIT "${pids[$at]}" 2>/dev/null || true # it takes its shared memory with it
    else
      # With what prepares its data, if that goes on.
      kill -s KILL -- "-${pids[$at]}" 2>/dev/null || kill -s KILL "${pids[$at]}" 2>/dev/null || true
    fi
  done
  wait ${pids[@]+"${pids[@]}"} 2>/dev/null || true
  rm -rf "$dir"
}

# Runs a command beside the servers. What ends this script ends the command, and then the servers.
run_beside() {
  local child status interrupted=1
  trap stop_all EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  start_all
  "$@" <&0 &
  child=$!
  trap 'interrupted=1; kill -s TERM "$child"' TERM
  # A terminal sends these to the command too, and twice is more than once.
  trap 'interrupted=1; [ -t 0 ] || [ -t 2 ] || kill -s INT "$child"' INT
  trap 'interrupted=1; [ -t 0 ] || [ -t 2 ] || kill -s HUP "$child"' HUP
  while [ -n "$interrupted" ]; do
    interrupted=
    status=0
    wait "$child" || status=$?
  done
  exit "$status"
}

# Tells where the servers are, and ends when `stop` says so or process $1, if one is named, has ended.
serve() {
  local watcher=
  mkfifo "$dir/stop"
  exec 3<>"$dir/stop" # open from here on, so that no word is lost
  export -p | sed -n 's/^declare -x \(SANDCLOCK_TEST_\)/export \1/p' >"$dir/env.part"
  mv "$dir/env.part" "$dir/env"
  if [ -n "${1:-}" ]; then
    (while kill -0 "$1" 2>/dev/null; do sleep 1; done && echo >&3) &
    watcher=$!
  fi
  read -r <&3
  [ -z "$watcher" ] || kill "$watcher" 2>/dev/null || true
}

start() {
  local detached=() supervisor
  mkdir "$dir" 2>/dev/null || fail "cannot make $dir: name a directory that is not there yet, in one that is"
  log=$(mktemp)
  ! command -v setsid >/dev/null || detached=(setsid)
  ${detached[@]+"${detached[@]}"} "$scripts/servers.sh" serve "$dir" "${1:-}" </dev/null >"$log" 2>&1 &
  supervisor=$!
  trap 'rm -f "$log"' EXIT
  while [ ! -f "$dir/env" ]; do
    kill -0 "$supervisor" 2>/dev/null || fail "$(cat "$log")"
    sleep 0.05
  done
  cat "$log" >&2
  cat "$dir/env"
}

stop() {
  local tick
  [ -p "$dir/stop" ] || fail "no servers run in $dir"
  echo 1<>"$dir/stop" # opened so, it does not wait for a reader
  for ((tick = 0; tick < patience_ticks; tick++)); do
    [ -d "$dir" ] || return 0
    sleep 0.05
  done
  fail "what runs in $dir did not end: if nothing does, remove that directory"
}

case ${1:-} in
run)
  [ "${2:-}" = -- ] && [ $# -gt 2 ] || usage
  dir=$(mktemp -d "${TMPDIR:-/tmp}/sandclock-servers.XXXXXX")
  run_beside env --default-signal=INT,QUIT "${@:3}"
  ;;
start | stop | serve)
  [ $# -ge 2 ] || usage
  dir=$(realpath -m "$2")
  case $1 in
  start) start "${3:-}" ;;
  stop) stop ;;
  serve) run_beside serve "${3:-}" ;;
  esac
  ;;
*) usage ;;
esac
