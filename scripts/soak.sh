#!/usr/bin/env bash
# Kills a daemon under load again and again and checks that nothing was lost and nothing ran twice: `make soak`, or `make soak KILLS=100`.
# SANDCLOCK_TEST_SEED=N replays the dice of a run that has printed it.
set -euo pipefail
cd "$(dirname "$0")/.."

export SANDCLOCK_TEST_KILLS=${KILLS:-1000}
target=${CARGO_TARGET_DIR:-$PWD/target}
if [ -x "$target/release/sandclock" ]; then
  cargo build --locked --release --bin sandclock
  export SANDCLOCK_TEST_BINARY=$target/release/sandclock
fi
echo "soak: $SANDCLOCK_TEST_KILLS kills of ${SANDCLOCK_TEST_BINARY:-the debug build, for there is no release build}" >&2
exec cargo test --locked --test it -- --exact --nocapture process::kills::whatever_was_acknowledged_survives_kills_at_any_moment
