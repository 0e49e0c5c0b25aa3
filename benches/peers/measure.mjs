// What the peers' scripts share: the number of jobs, the clock, and the line that tells the figures.

export const jobs = Number(process.argv[2] ?? 20000);

// Measures `work`, which enqueues the jobs, calls `enqueued`, and ends when the last job has ended.
export async function measure(name, work) {
  const began = process.hrtime.bigint();
  const used = process.cpuUsage();
  const seconds = () => Number(process.hrtime.bigint() - began) / 1e9;
  let enqueuing = 0;
  await work(() => (enqueuing = seconds()));
  const wall = seconds();
  const { user, system } = process.cpuUsage(used);
  const each = (user + system) / 1e3 / jobs;
  console.log(
    `${name} ${jobs} jobs in ${wall.toFixed(2)} s (${enqueuing.toFixed(2)} s of it enqueuing): ` +
      `${Math.round(jobs / wall)} jobs/s; CPU-ms a job ${each.toFixed(3)}`,
  );
}
