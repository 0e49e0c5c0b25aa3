// BullMQ on Redis: jobs that do nothing, added in bulk, then worked off by one worker with a hundred at once. Finished jobs are kept, as
// sandclock keeps its runs.
import { Queue, Worker } from 'bullmq';
import { jobs, measure } from './measure.mjs';

const { hostname: host, port } = new URL(process.env.SANDCLOCK_TEST_REDIS_URL);
const connection = { host, port: Number(port), maxRetriesPerRequest: null };
const name = `bench-${process.pid}`;
const queue = new Queue(name, { connection });
await queue.waitUntilReady();

await measure('bullmq', async (enqueued) => {
  const batch = Array.from({ length: 256 }, () => ({ name: 'noop', data: { query: 'go' } }));
  for (let left = jobs; left > 0; left -= batch.length) {
    await queue.addBulk(batch.slice(0, left));
  }
  enqueued();
  let ended = 0;
  await new Promise((resolve, reject) => {
    const worker = new Worker(name, async () => 'done', { connection, concurrency: 100 });
    worker.on('error', reject);
    worker.on('completed', () => {
      ended += 1;
      if (ended === jobs) worker.close().then(resolve, reject);
    });
  });
});
await queue.obliterate({ force: true });
await queue.close();
