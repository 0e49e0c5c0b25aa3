/** Tests without a daemon: `node --test`. */
import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';

import { local } from '../../wit/javascript/local.js';

const { run } = await import('./agent.js');
const ASK = 'http://127.0.0.1:8080/ask';
const REPORTS = 'http://127.0.0.1:8080/reports';

beforeEach(() => {
  local.reset();
  local.answers[ASK] = [200, { summary: 'Tea.', voices: ['tea', 'tea, hot'] }];
  local.answers[REPORTS] = [201, ''];
});

test('it asks, writes and hands in', async () => {
  assert.equal(await run('Tea or coffee?'), '2 voices: Tea.');
  assert.equal(local.files['survey.md'], '# Tea or coffee?\n\nTea.\n\n- tea\n- tea, hot\n');
  assert.deepEqual(local.requests.map((request) => request.url), [ASK, REPORTS]);
  assert.deepEqual(local.reports, [['asking', 0.2], ['writing', 0.6], ['handing in', 0.8]]);
});

test('a second attempt does not ask again', async () => {
  local.answers[REPORTS] = [[503, 'later'], [201, '']];
  await assert.rejects(run('Tea or coffee?'), /the server answered 503/);
  assert.equal(await run('Tea or coffee?'), '2 voices: Tea.');
  assert.deepEqual(local.requests.map((request) => request.url), [ASK, REPORTS, REPORTS]);
});
