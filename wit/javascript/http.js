/** Requests to the hosts that the agent's settings allow, by the daemon's interfaces: they tell why there is no answer. */
import { handle } from 'wasi:http/outgoing-handler@0.2.6';
import { Fields, OutgoingBody, OutgoingRequest, RequestOptions } from 'wasi:http/types@0.2.6';

const WRITE_BYTES = 4096;
const READ_BYTES = 64n * 1024n;
const METHODS = ['get', 'head', 'post', 'put', 'delete', 'connect', 'options', 'trace', 'patch'];

/** The status, the headers (by lower-case names) and the body (bytes) of an answer; throws the tag of the error when there is none. */
export function send(method, url, headers, body, timeoutSeconds) {
  const request = requestOf(method, url, headers);
  const outgoing = body === undefined ? undefined : request.body();
  const future = handle(request, optionsOf(timeoutSeconds));
  if (outgoing !== undefined) write(outgoing, body);
  const ready = future.subscribe();
  ready.block();
  ready[Symbol.dispose]?.();
  const response = unwrapped(future.get());
  const told = {};
  const fields = response.headers();
  const decoder = new TextDecoder();
  for (const [name, value] of fields.entries()) told[name.toLowerCase()] = decoder.decode(new Uint8Array(value));
  return { status: response.status(), headers: told, body: read(response.consume().stream()) };
}

function requestOf(method, url, headers) {
  const { protocol, host, pathname, search } = new URL(url);
  const fields = new Fields();
  const encoder = new TextEncoder();
  for (const [name, value] of Object.entries(headers)) fields.append(name, encoder.encode(value));
  const request = new OutgoingRequest(fields);
  const known = method.toLowerCase();
  request.setMethod(METHODS.includes(known) ? { tag: known } : { tag: 'other', val: method });
  request.setScheme({ tag: protocol === 'http:' ? 'HTTP' : 'HTTPS' });
  request.setAuthority(host);
  request.setPathWithQuery(pathname + search);
  return request;
}

function optionsOf(timeoutSeconds) {
  if (timeoutSeconds === undefined) return undefined;
  const options = new RequestOptions();
  const nanoseconds = BigInt(Math.trunc(timeoutSeconds * 1e9));
  options.setFirstByteTimeout(nanoseconds);
  options.setBetweenBytesTimeout(nanoseconds);
  return options;
}

function write(outgoing, body) {
  const stream = outgoing.write();
  for (let at = 0; at < body.length; at += WRITE_BYTES) stream.blockingWriteAndFlush(body.slice(at, at + WRITE_BYTES));
  // The stream is the body's, and must be gone before the body is finished.
  stream[Symbol.dispose]();
  OutgoingBody.finish(outgoing, undefined);
}

/** An option of a result of a result: of the answer, of what went wrong with the call, and of a second `get`. */
function unwrapped(got) {
  let inner = got;
  while (inner !== undefined && (inner.tag === 'ok' || inner.tag === 'err')) {
    if (inner.tag === 'err') throw inner.val;
    inner = inner.val;
  }
  return inner;
}

function read(stream) {
  const pieces = [];
  let length = 0;
  for (;;) {
    let piece;
    try {
      piece = new Uint8Array(stream.blockingRead(READ_BYTES));
    } catch (error) {
      if ((error?.payload ?? error)?.tag === 'closed') break;
      throw error;
    }
    pieces.push(piece);
    length += piece.length;
  }
  const whole = new Uint8Array(length);
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}
