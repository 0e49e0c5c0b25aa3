// graphile-worker on PostgreSQL: jobs that do nothing, added in bulk, then worked off by one worker, first as it is by default with
// concurrency 24, then with its batching of fetches and completions. Finished jobs are deleted by it.
import { Logger, makeWorkerUtils, run } from 'graphile-worker';
import pg from 'pg';
import { jobs, measure } from './measure.mjs';

const base = process.env.SANDCLOCK_TEST_POSTGRES_URL;
const database = `peer_${process.pid}`;

async function once(url, statement) {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  await client.query(statement);
  await client.end();
}

await once(base, `CREATE DATABASE ${database}`);
const url = new URL(base);
url.pathname = `/${database}`;
const connectionString = url.href;
// A line for each job would be measured too.
const logger = new Logger(() => () => {});
const utils = await makeWorkerUtils({ connectionString, logger });
await utils.migrate();

const batched = {
  localQueue: { size: 500, refetchDelay: { durationMs: 10 } },
  completeJobBatchDelay: 0,
  failJobBatchDelay: 0,
};
for (const [name, worker] of [
  ['graphile-worker', {}],
  ['graphile-worker, batched', batched],
]) {
  await measure(name, async (enqueued) => {
    const batch = Array.from({ length: 256 }, () => ({ identifier: 'noop', payload: { query: 'go' } }));
    for (let left = jobs; left > 0; left -= batch.length) {
      await utils.addJobs(batch.slice(0, left));
    }
    enqueued();
    let ended = 0;
    await new Promise((resolve, reject) => {
      const noop = async () => {};
      run({
        connectionString,
        concurrency: 24,
        maxPoolSize: 25,
        noHandleSignals: true,
        logger,
        taskList: { noop },
        preset: { worker },
      }).then((runner) => {
        runner.events.on('job:complete', () => {
          ended += 1;
          if (ended === jobs) runner.stop().then(resolve, reject);
        });
      }, reject);
    });
  });
}
await utils.release();
await once(base, `DROP DATABASE ${database} WITH (FORCE)`);
