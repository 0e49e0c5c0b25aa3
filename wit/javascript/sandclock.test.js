/** What `agent` makes of what `run` gives: `node --test wit/javascript/sandclock.test.js`. */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import './local.js';

// After `local`, which stands in for what the module imports.
const { agent } = await import('./sandclock.js');

test('text is the result', async () => {
  for (const text of ['', 'done']) {
    assert.equal(await agent(() => text).run('go'), text);
    assert.equal(await agent(async () => text).run('go'), text);
  }
});

test('anything else fails the run for good with the mend', async () => {
  const others = [[undefined, 'undefined'], [null, 'null'], [7, 'a value of type number'], [{}, 'a value of type object']];
  for (const [result, given] of others) {
    const failure = { tag: 'permanent', val: `run gave ${given}, and must return text: return String(…) or JSON.stringify(…)` };
    await assert.rejects(agent(() => result).run('go'), (error) => (assert.deepEqual(error, failure), true));
    await assert.rejects(agent(async () => result).run('go'), (error) => (assert.deepEqual(error, failure), true));
  }
});
