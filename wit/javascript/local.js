/**
 * The daemon's functions for tests under node: everything is kept in memory and can be looked at. Import this first, and the agent after it:
 *
 *     import { local } from './local.js';
 *     const { run } = await import('./agent.js');
 *
 *     local.answers['https://api.example.com/ask'] = [200, { text: '42' }];
 *     assert.equal(await run('what?'), '42');
 */
import { register } from 'node:module';

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/**
 * `checkpoints` by name, `reports`, `events`, `lines` and `requests` in their order; `answers` of `fetch` by URL: a status and a body, text or
 * what JSON can say, or a list of these, taken one after the other; `decisions` by key; `configuration` and `who` (what `context` tells) by
 * name; `memories` by bucket and key; `files` by path.
 */
export const local = {
  reset() {
    Object.assign(local, {
      checkpoints: {}, reports: [], events: [], lines: [], requests: [], answers: {}, decisions: {}, configuration: {}, who: {},
      memories: {}, files: {}, isCancelled: false,
    });
  },
};
local.reset();

const decoded = (body) => (body === undefined || typeof body === 'string' ? body : decoder.decode(body));

const answered = (method, url, headers, body) => {
  const text = decoded(body);
  const isJson = headers['content-type'] === 'application/json';
  local.requests.push({ method, url, headers, body: text, ...(isJson && { json: JSON.parse(text) }) });
  const given = local.answers[url];
  if (given === undefined) throw new Error(`the test has no answer for ${url}: set local.answers['${url}']`);
  const [status, said] = Array.isArray(given[0]) ? given.shift() : given;
  return { status, headers: {}, body: encoder.encode(typeof said === 'string' ? said : JSON.stringify(said)) };
};

globalThis.fetch = async (url, { method = 'GET', headers = {}, body } = {}) => {
  const { status, body: bytes } = answered(method, String(url), headers, body);
  return new Response(bytes, { status });
};

const told = (name, otherwise) => () => local.who[name] ?? otherwise;
const failed = (tag) => Object.assign(new Error(tag), { payload: tag });

const bytesOf = (path) => {
  if (!(path in local.files)) throw failed('no-entry');
  return encoder.encode(local.files[path]);
};
const file = (path) => ({
  read(length, offset) {
    const bytes = bytesOf(path).slice(Number(offset), Number(offset + length));
    return [bytes, Number(offset) + bytes.length >= bytesOf(path).length];
  },
  write(bytes, offset) {
    const before = bytesOf(path).slice(0, Number(offset));
    local.files[path] = decoder.decode(new Uint8Array([...before, ...bytes]));
    return BigInt(bytes.length);
  },
  readDirectory() {
    const inside = path === '.' ? '' : `${path}/`;
    const below = Object.keys(local.files).filter((one) => one.startsWith(inside));
    const names = [...new Set(below.map((one) => one.slice(inside.length).split('/')[0]))];
    return { readDirectoryEntry: () => (names.length > 0 ? { name: names.shift() } : undefined) };
  },
});
const root = {
  openAt(flags, path, how) {
    if (how.truncate) local.files[path] = '';
    else if (!how.directory) bytesOf(path);
    return file(path);
  },
  createDirectoryAt() {},
  unlinkFileAt(path) {
    bytesOf(path);
    delete local.files[path];
  },
};

const bucket = (name) => {
  const values = (local.memories[name] ??= {});
  return {
    get: (key) => values[key],
    set: (key, value) => void (values[key] = value),
    delete: (key) => void delete values[key],
    listKeys: () => ({ keys: Object.keys(values) }),
  };
};

/** What stands in for each of the daemon's interfaces. */
globalThis.sandclockHost = {
  'sandclock:agent/approval': {
    ask(key, question) {
      if (key in local.decisions) return local.decisions[key];
      throw new Error(`the agent asks \`${question}\`, and the test has no decision: set local.decisions['${key}']`);
    },
    find: (key) => local.decisions[key],
  },
  'sandclock:agent/checkpoint': {
    load: (name) => local.checkpoints[name],
    save: (name, value) => void (local.checkpoints[name] = value),
    remove: (name) => void delete local.checkpoints[name],
    names: () => Object.keys(local.checkpoints).sort(),
  },
  'sandclock:agent/context': {
    runId: told('runId', 'run_1'), taskId: told('taskId', 'task'), agentId: told('agentId', 'agent'), sessionId: told('sessionId', 'session'),
    attempt: told('attempt', 1), trigger: told('trigger', 'manual'), dueAt: told('dueAt'), metadata: told('metadata', '{}'),
    timeLeftMs: told('timeLeftMs'),
  },
  'sandclock:agent/progress': {
    report: (message, fraction) => void local.reports.push([message, fraction]),
    emit: (name, payload) => void local.events.push([name, JSON.parse(payload)]),
    cancelled: () => local.isCancelled,
    sleep: () => local.isCancelled,
  },
  './http.js': { send: answered },
  'wasi:config/store': { get: (name) => local.configuration[name] },
  'wasi:filesystem/preopens': { getDirectories: () => [[root, '/']] },
  'wasi:keyvalue/store': { open: bucket },
  'wasi:logging/logging': { log: (level, topic, message) => void local.lines.push([level, topic, message]) },
};

// A module of node for each interface, and for the one file that speaks HTTP with the daemon, that hands on what is above.
const hooks = `
const names = ${JSON.stringify(Object.fromEntries(Object.entries(globalThis.sandclockHost).map(([name, own]) => [name, Object.keys(own)])))};
export function resolve(specifier, context, next) {
  const own = names[specifier.split('@')[0]];
  const isOther = specifier === './http.js' && !context.parentURL?.endsWith('/sandclock.js');
  if (own === undefined || isOther) return next(specifier, context);
  const source = 'const host = globalThis.sandclockHost[' + JSON.stringify(specifier.split('@')[0]) + '];'
    + own.map((name) => (name === 'delete' ? '' : 'export const ' + name + ' = host.' + name + ';')).join('');
  return { url: 'data:text/javascript,' + encodeURIComponent(source), shortCircuit: true };
}`;
register(`data:text/javascript,${encodeURIComponent(hooks)}`);
