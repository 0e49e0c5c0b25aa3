#!/usr/bin/env bash
# Everything that is checked before a change lands: format, lints, tests, documentation. `make test` calls it.
set -euo pipefail
cd "$(dirname "$0")/.."

guests=(plugins/*/Cargo.toml wit/rust/Cargo.toml scripts/rust-bindings/Cargo.toml)
guest_target=${CARGO_TARGET_DIR:-$PWD/target}/guests

step() { printf '\n== %s\n' "$*" >&2; }

# Runs a cargo tool that a minimal toolchain lacks, or says that it was left out.
with_component() {
  local component=$1
  shift
  if cargo "$component" --version >/dev/null 2>&1; then
    "$@"
  else
    echo "left out: this Rust has no $component (rustup component add ${component/fmt/rustfmt})" >&2
  fi
}

format() {
  cargo fmt --check
  for manifest in "${guests[@]}"; do cargo fmt --check --manifest-path "$manifest"; done
}

lint() {
  cargo clippy --locked --all-targets -- -D warnings
  # Who wants one store only builds without the others' drivers.
  for features in "" sqlite; do cargo clippy -q --locked --no-default-features --features "$features" -- -D warnings; done
  for manifest in "${guests[@]}"; do
    cargo clippy -q --locked --all-targets --all-features --manifest-path "$manifest" --target-dir "$guest_target" -- -D warnings
  done
}

if [ -n "${SANDCLOCK_TEST_SKIP:-}" ]; then
  trap 'step "skipped, by SANDCLOCK_TEST_SKIP: every test that needs one of $SANDCLOCK_TEST_SKIP"' EXIT
fi

step "format"
with_component fmt format
step "lints"
with_component clippy lint
step "tests"
if cargo nextest --version >/dev/null 2>&1; then
  scripts/servers.sh run -- cargo nextest run --locked --no-fail-fast
  cargo test --locked --doc
else
  scripts/servers.sh run -- cargo test --locked --no-fail-fast
fi
step "tests of the example agents and their library"
for manifest in plugins/*/Cargo.toml wit/rust/Cargo.toml; do
  cargo test -q --locked --all-features --manifest-path "$manifest" --target-dir "$guest_target"
done
for test in plugins/*/test_*.py wit/python/test_*.py; do
  PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=wit/python python3 -m unittest discover -q -s "$(dirname "$test")"
done
node=$(scripts/setup-guest-javascript.sh | tail -1)/node
for test in plugins/*/agent.test.js wit/javascript/*.test.js; do "$node" --test "$test"; done
step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
