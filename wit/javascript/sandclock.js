/**
 * What a sandclock agent written in JavaScript needs.
 *
 *     import { agent, fetchJson, progress, step, writeText } from './sandclock.js';
 *
 *     export async function run(query) {
 *       progress('asking', 0.5);
 *       const answer = await step('answer', () => fetchJson('https://api.example.com/ask', { json: { q: query } }));
 *       writeText('answer.md', answer.text);
 *       return answer.text;
 *     }
 *
 *     export const entry = agent(run);
 *
 * Inside of a component the imports below are the daemon's; in a test, `local.js` stands in for them. Numbers of the daemon are below 2^31,
 * but sizes and offsets of WASI are BigInt.
 */
import * as approval from 'sandclock:agent/approval@0.1.0';
import * as checkpoint from 'sandclock:agent/checkpoint@0.1.0';
import * as context from 'sandclock:agent/context@0.1.0';
import * as watchers from 'sandclock:agent/progress@0.1.0';
import { get as configured } from 'wasi:config/store@0.2.0-rc.1';
import { getDirectories } from 'wasi:filesystem/preopens@0.2.6';
import { open as openBucket } from 'wasi:keyvalue/store@0.2.0-draft';
import { log as logLine } from 'wasi:logging/logging@0.1.0-draft';

import { send } from './http.js';

const MOST_MS = 2 ** 31 - 1;
const PIECE_BYTES = 64 * 1024;
const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Who is running: `runId()`, `taskId()`, `agentId()`, `sessionId()`, `attempt()`, `trigger()`, `dueAt()`, `metadata()`, `timeLeftMs()`. */
export { context };

/** Another attempt may help; `afterSeconds` is the least delay before it, the task's policy without. */
export class Retryable extends Error {
  constructor(message, afterSeconds) {
    super(message);
    this.afterSeconds = afterSeconds;
  }
}

/** Another attempt cannot help: the run fails with this sentence. */
export class Permanent extends Error {}

/** The agent's settings do not allow the call; `sandclock why-denied RUN` says which rule it was. */
export class Denied extends Permanent {}

/** The agent stopped because the run was asked to. */
export class Cancelled extends Error {}

/**
 * Makes a function that takes the query and gives the result the component's entry: `export const entry = agent(run)`. The result is text;
 * anything else fails the run for good.
 */
export function agent(run) {
  return {
    async run(query) {
      try {
        return textOf(await run(query));
      } catch (error) {
        throw asFailure(error) ?? trap(error);
      }
    },
  };
}

/** The result, if it is text; the tool chain would end the attempt for anything else with a panic that names no mend. */
function textOf(result) {
  if (typeof result === 'string') return result;
  const given = result === undefined || result === null ? String(result) : `a value of type ${typeof result}`;
  throw new Permanent(`run gave ${given}, and must return text: return String(…) or JSON.stringify(…)`);
}

function asFailure(error) {
  if (error instanceof Retryable) {
    const afterMs = error.afterSeconds === undefined ? undefined : Math.min(Math.max(Math.trunc(error.afterSeconds * 1000), 0), MOST_MS);
    return { tag: 'retryable', val: { message: error.message, afterMs } };
  }
  if (error instanceof Permanent) return { tag: 'permanent', val: error.message };
  if (error instanceof Cancelled) return { tag: 'cancelled', val: error.message };
  return undefined;
}

function trap(error) {
  console.error(`${error?.name ?? 'Error'}: ${error?.message ?? error}\n${error?.stack ?? ''}`);
  return error;
}

/** What the daemon answered a call with. */
function sentence(error) {
  const told = error?.payload ?? error;
  if (typeof told === 'string') return told;
  return typeof told?.val === 'string' ? told.val : (told?.tag ?? told?.message ?? String(told));
}

function kept(call) {
  try {
    return call();
  } catch (error) {
    throw new Permanent(`the agent's memory refused: ${sentence(error)}`);
  }
}

/** Tells the run's watchers a sentence, and the part done, from 0 to 1. */
export function progress(message, fraction) {
  watchers.report(message, fraction);
}

/** Tells the run's watchers an event of the agent's own, with what JSON can say. */
export function event(name, payload = null) {
  watchers.emit(name, JSON.stringify(payload));
}

/** Whether the run was asked to stop. */
export function cancelled() {
  return watchers.cancelled();
}

/** Ends the run as cancelled if it was asked to stop. */
export function stopIfCancelled(message = 'stopped, because the run was asked to') {
  if (cancelled()) throw new Cancelled(message);
}

/** Waits; returns early, and true, when the run is asked to stop. */
export function sleep(seconds) {
  return watchers.sleep(Math.trunc(seconds * 1000));
}

/** The task's metadata, an object. */
export function metadata() {
  return JSON.parse(context.metadata());
}

/**
 * What `work()` gave in this attempt, or gave and saved under this name in an earlier attempt of the run: it is not done again.
 * The value is what JSON can say. A save that the daemon refuses, by a limit, throws `Permanent`.
 */
export async function step(name, work) {
  const saved = checkpoint.load(name);
  if (saved !== undefined) return JSON.parse(decoder.decode(new Uint8Array(saved)));
  const text = JSON.stringify((await work()) ?? null);
  try {
    checkpoint.save(name, encoder.encode(text));
  } catch (error) {
    throw new Permanent(`the step \`${name}\` cannot be saved: ${sentence(error)}`);
  }
  return JSON.parse(text);
}

/**
 * A person's decision, with `approved`, `by` and `note`. Without one the attempt ends in here, and the run waits for it; a later attempt
 * that asks under the same key gets it.
 */
export function ask(key, question) {
  return approval.ask(key, question);
}

/** The decision under this key, or undefined; does not wait. */
export function decision(key) {
  return approval.find(key);
}

/** A text of the agent's configuration, or the default. */
export function config(name, otherwise) {
  return configured(name) ?? otherwise;
}

/** A line with a level in the run's log: trace, debug, info, warn, error or critical. `console.log` makes one without. */
export function log(message, level = 'info', topic = '') {
  logLine(level, topic, message);
}

/** What the agent keeps from run to run, in its session, or with "agent" for all of its runs: `get`, `set`, `delete` of JSON, and `keys`. */
export function memory(bucket = 'session') {
  const opened = kept(() => openBucket(bucket));
  return {
    get(key, otherwise) {
      const value = kept(() => opened.get(key));
      return value === undefined ? otherwise : JSON.parse(decoder.decode(new Uint8Array(value)));
    },
    set(key, value) {
      kept(() => opened.set(key, encoder.encode(JSON.stringify(value))));
    },
    delete(key) {
      kept(() => opened.delete(key));
    },
    keys() {
      const found = [];
      let cursor;
      do {
        const page = kept(() => opened.listKeys(cursor));
        found.push(...page.keys);
        cursor = page.cursor;
      } while (cursor !== undefined);
      return found;
    },
  };
}

/**
 * The JSON of an answer of success, null where the body is empty. `json` is sent as JSON, `body` (text or bytes) as it is; the method is GET,
 * or POST with one of these. Send no keys: the daemon puts them in. A redirect is an answer like any other. Throws `Denied` for what the
 * settings do not allow, `Retryable` when there is no answer and for 408, 425, 429 and 5xx, after the seconds of Retry-After, and `Permanent`
 * for every other status and what is no JSON. `timeoutSeconds` is the longest silence before and in the answer.
 */
export async function fetchJson(url, { json, body, method, headers = {}, timeoutSeconds } = {}) {
  const bytes = json === undefined ? bytesOf(body) : encoder.encode(JSON.stringify(json));
  const sent = { ...(json !== undefined && { 'content-type': 'application/json' }), ...headers };
  if (bytes !== undefined) sent['content-length'] = String(bytes.length);
  let answer;
  try {
    answer = await send(method ?? (bytes === undefined ? 'GET' : 'POST'), url, sent, bytes, timeoutSeconds);
  } catch (error) {
    const told = sentence(error);
    if (told === 'HTTP-request-denied') throw new Denied(`the agent may not call ${url}: \`sandclock why-denied\` names the rule`);
    throw new Retryable(`no answer from ${url}: ${told}`);
  }
  return jsonOf(answer);
}

function bytesOf(body) {
  return typeof body === 'string' ? encoder.encode(body) : body;
}

function jsonOf({ status, headers, body }) {
  const text = decoder.decode(body);
  if (status >= 200 && status < 300) {
    if (text === '') return null;
    try {
      return JSON.parse(text);
    } catch {
      throw new Permanent(`the answer is not JSON: ${text.slice(0, 200)}`);
    }
  }
  const message = `the server answered ${status}: ${text.slice(0, 200)}`;
  if (![408, 425, 429].includes(status) && status < 500) throw new Permanent(message);
  const after = headers['retry-after'] ?? '';
  throw new Retryable(message, /^\d+$/.test(after) ? Number(after) : undefined);
}

function workspace() {
  return getDirectories()[0][0];
}

function opened(path, how, flags, use) {
  let file;
  try {
    file = workspace().openAt({ symlinkFollow: true }, path, how, flags);
    return use(file);
  } catch (error) {
    throw new Permanent(`\`${path}\`: ${sentence(error)}`);
  } finally {
    file?.[Symbol.dispose]?.();
  }
}

/** A file of the workspace as UTF-8. */
export function readText(path) {
  return opened(path, {}, { read: true }, (file) => {
    const pieces = [];
    let offset = 0;
    for (;;) {
      const [bytes, isLast] = file.read(BigInt(PIECE_BYTES), BigInt(offset));
      pieces.push(new Uint8Array(bytes));
      offset += bytes.length;
      if (isLast || bytes.length === 0) break;
    }
    const whole = new Uint8Array(offset);
    let at = 0;
    for (const piece of pieces) {
      whole.set(piece, at);
      at += piece.length;
    }
    return decoder.decode(whole);
  });
}

/** Writes a file of the workspace as UTF-8, over one that is there. */
export function writeText(path, text) {
  const bytes = encoder.encode(text);
  opened(path, { create: true, truncate: true }, { write: true }, (file) => {
    for (let at = 0; at < bytes.length; ) {
      at += Number(file.write(bytes.slice(at, at + PIECE_BYTES), BigInt(at)));
    }
  });
}

/** The names in a folder of the workspace, sorted; of the workspace itself without a path. */
export function listNames(path = '.') {
  return opened(path, { directory: true }, { read: true }, (folder) => {
    const names = [];
    const entries = folder.readDirectory();
    for (let entry = entries.readDirectoryEntry(); entry !== undefined; entry = entries.readDirectoryEntry()) names.push(entry.name);
    entries[Symbol.dispose]?.();
    return names.sort();
  });
}

/** Makes a folder in the workspace; one that is there is no error. */
export function makeFolder(path) {
  try {
    workspace().createDirectoryAt(path);
  } catch (error) {
    if (sentence(error) !== 'exist') throw new Permanent(`\`${path}\`: ${sentence(error)}`);
  }
}

/** Removes a file of the workspace. */
export function removeFile(path) {
  try {
    workspace().unlinkFileAt(path);
  } catch (error) {
    throw new Permanent(`\`${path}\`: ${sentence(error)}`);
  }
}
