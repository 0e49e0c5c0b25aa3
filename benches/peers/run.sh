#!/usr/bin/env bash
# The same job that does nothing, on sandclock's control plane and on its peers, in one sitting on the same servers.
#
#     scripts/servers.sh run -- benches/peers/run.sh [JOBS]
#
# The peers are npm packages (Node.js 20 or later); they are installed into a directory that is deleted at the end. Each side is measured
# twice, in turns. What differs: sandclock keeps every finished run with its fence, its attempt and its events; BullMQ keeps the finished
# job, graphile-worker deletes it.
set -euo pipefail
cd "$(dirname "$0")/../.."

jobs=${1:-20000}
: "${SANDCLOCK_TEST_REDIS_URL:?not set: start this with scripts/servers.sh run -- $0}"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cp benches/peers/package.json benches/peers/*.mjs "$dir"
(cd "$dir" && npm install --silent --no-audit --no-fund --no-package-lock >&2)

export NODE_ENV=production
for _ in 1 2; do
  cargo bench -q --locked --bench control_plane -- "$jobs" redis
  node "$dir/bullmq.mjs" "$jobs"
  cargo bench -q --locked --bench control_plane -- "$jobs" postgres
  node "$dir/graphile.mjs" "$jobs"
done
