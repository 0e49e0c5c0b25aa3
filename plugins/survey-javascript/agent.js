/**
 * Asks a question of a service, keeps the answer, and hands in the report. The configuration names the service:
 * `config = { endpoint = "http://…" }`. The answer is paid for once: a later attempt finds it saved.
 */
import { agent, config, fetchJson, progress, step, writeText } from '../../wit/javascript/sandclock.js';

export async function run(query) {
  const endpoint = config('endpoint', 'http://127.0.0.1:8080');
  progress('asking', 0.2);
  const answer = await step('answer', () => fetchJson(`${endpoint}/ask`, { json: { question: query } }));
  progress('writing', 0.6);
  writeText('survey.md', report(query, answer));
  progress('handing in', 0.8);
  await fetchJson(`${endpoint}/reports`, { json: { question: query } });
  return `${answer.voices.length} voices: ${answer.summary}`;
}

/** The report's text. */
export function report(question, answer) {
  return `# ${question}\n\n${answer.summary}\n\n${answer.voices.map((voice) => `- ${voice}\n`).join('')}`;
}

export const entry = agent(run);
