#!/usr/bin/env bash
# Runs two examples on a daemon of its own, with the embedded store in a temporary directory, and stops it again:
#   1. a health report, scheduled: a `once` task that is due
#   2. support operations: a manual task of a small real application
# OMNICOREAGENT_COOKBOOK_WORKSPACE_DIR: the root of the runs' workspaces (default: in the temporary directory; they stay).
# SANDCLOCK_BIN: the binary (default: the one that `cargo build` makes). `make run` builds what this needs.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
bin=${SANDCLOCK_BIN:-${CARGO_TARGET_DIR:-$root/target}/debug/sandclock}
patience=60 # seconds, for each thing that is waited for

fail() {
  echo "demo: $*" >&2
  [ ! -s "${log:-}" ] || { echo "the end of the daemon's log:" && tail -20 "$log"; } >&2
  exit 1
}

[ -x "$bin" ] || fail "no $bin: run 'make run', or 'cargo build'"
for plugin in health-report support-operations; do
  [ -f "$root/plugins/$plugin.wasm" ] || fail "no plugins/$plugin.wasm: run 'make plugins'"
done
# Only what is set below counts, not what a developer's own daemon is given.
for name in ${!SANDCLOCK_@} ${!OMNICOREAGENT_BACKGROUND_@}; do unset "$name"; done

demo=$(mktemp -d "${TMPDIR:-/tmp}/sandclock-demo.XXXXXX")
workspace=${OMNICOREAGENT_COOKBOOK_WORKSPACE_DIR:-$demo/workspace}
mkdir -p "$workspace"
workspace=$(cd "$workspace" && pwd)
log=$demo/daemon.log
export SANDCLOCK_DATA_DIR=$demo/data SANDCLOCK_WORKSPACE_DIR=$workspace SANDCLOCK_PLUGINS_DIR=$root/plugins

daemon=
stop_daemon() {
  [ -n "$daemon" ] || return 0
  kill -TERM "$daemon" 2>/dev/null || true
  wait "$daemon" || echo "demo: the daemon ended with code $?" >&2
  daemon=
}
# shellcheck disable=SC2329 # called by the trap
clean_up() {
  stop_daemon
  rm -rf "$demo/data" "$demo"/*.json "$log"
  rmdir "$demo/workspace" "$demo" 2>/dev/null || true # they stay when something is in them
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# Calls a command again and again until it succeeds or patience runs out.
wait_for() {
  local deadline=$((SECONDS + patience))
  until "$@"; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.1
  done
}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

ready_or_gone() {
  kill -0 "$daemon" 2>/dev/null || return 0
  (
    exec 3<>"/dev/tcp/127.0.0.1/$port"
    printf 'GET /ready HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' >&3
    read -r _ code _ <&3
    [ "$code" = 200 ]
  ) 2>/dev/null
}

start_daemon() {
  for _ in 1 2 3 4 5; do
    port=$((20000 + RANDOM % 20000))
    ! listens "$port" || continue
    SANDCLOCK_LISTEN=127.0.0.1:$port "$bin" serve >"$log" 2>&1 </dev/null &
    daemon=$!
    wait_for ready_or_gone || fail "the daemon was not ready within $patience s"
    if kill -0 "$daemon" 2>/dev/null; then
      export SANDCLOCK_URL=http://127.0.0.1:$port
      return
    fi
    daemon= # another process took the port, or it cannot start at all
  done
  fail "the daemon does not start"
}

show() {
  printf '\n-- %s\n' "$1"
  shift
  "$@"
}

# The first value of a key in a JSON text; enough for the plain ids and paths read here.
value_of() { grep -o "\"$1\": *\"[^\"]*\"" | head -1 | sed 's/.*: *"\(.*\)"/\1/' || true; }

# Registers a task. Its plugin may still be compiling: then the agent is not there yet (exit code 3).
create_task() {
  local code=0
  "$bin" tasks create --file "$1" >/dev/null 2>"$demo/error.json" || code=$?
  [ "$code" = 0 ] || { [ "$code" != 3 ] && fail "$(cat "$demo/error.json")"; }
}

# shellcheck disable=SC2329 # called through wait_for
first_run_ended() {
  run=$("$bin" runs list --task "$1" --json | value_of run_id)
  [ -n "$run" ] || return 1
  case $("$bin" runs show "$run" --json | value_of status) in
  completed | failed | cancelled | timeout | skipped) ;;
  *) return 1 ;;
  esac
}

start_daemon
echo "A daemon of its own serves $SANDCLOCK_URL"

printf '\n=== 1. A scheduled health report: a once task that is due\n'
cat >"$demo/health_report.json" <<TASK
{
  "task_id": "health_report",
  "agent_id": "health-report",
  "query": "Check system health and summarize anything that needs attention.",
  "schedule": { "type": "once", "run_at": "$(date -u +%Y-%m-%dT%H:%M:%SZ)" },
  "timeout_seconds": 60,
  "retry_policy": { "max_retries": 1, "initial_delay_seconds": 0 }
}
TASK
wait_for create_task "$demo/health_report.json" || fail "the task health_report was not accepted: $(cat "$demo/error.json")"
wait_for first_run_ended health_report || fail "the scheduled run did not end within $patience s"
show "task status" "$bin" tasks status health_report
show "manager status" "$bin" status
show "events of $run" "$bin" runs events "$run"
show "files" "$bin" runs workspace "$run"
show "output.md" cat "$workspace/$("$bin" runs show "$run" --json | value_of workspace_path)/output.md"

printf '\n=== 2. Support operations: a manual task of a small application\n'
cat >"$demo/support_operations.json" <<'TASK'
{
  "task_id": "support_operations",
  "agent_id": "support-operations",
  "query": "Customer Acme reports ticket TCK-1042: checkout is failing with 502 since the last deploy. Review it, decide and write the support note.",
  "schedule": { "type": "manual" },
  "timeout_seconds": 60
}
TASK
wait_for create_task "$demo/support_operations.json" || fail "the task support_operations was not accepted: $(cat "$demo/error.json")"
answer=$("$bin" tasks run support_operations --wait --json) || fail "the run of support_operations did not complete: $answer"
run=$(value_of run_id <<<"$answer")
printf 'run_id: %s\nstatus: %s\n' "$run" "$(value_of status <<<"$answer")"
show "attempts" "$bin" runs attempts "$run"
show "events" "$bin" runs events "$run"
show "files" "$bin" runs workspace "$run"
printf '\nworkspace_root: %s\nworkspace: %s\n' "$workspace" "$workspace/$(value_of workspace_path <<<"$answer")"
show "output.md" cat "$workspace/$(value_of workspace_path <<<"$answer")/output.md"

stop_daemon
printf '\nStart a daemon and keep it: %s serve\n' "${bin#"$PWD/"}"
