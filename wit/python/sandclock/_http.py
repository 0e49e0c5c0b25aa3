"""Requests to the hosts that the agent's settings allow."""

import json as _json
from contextlib import ExitStack
from urllib.parse import urlsplit

from ._failures import Denied, Permanent, Retryable
from ._host import IS_COMPONENT

if IS_COMPONENT:
    from componentize_py_types import Err
    from wit_world.imports import outgoing_handler, streams, types
else:
    from . import local

_WRITE_BYTES = 4096
_READ_BYTES = 64 * 1024
# A request that another attempt may answer: https://www.rfc-editor.org/rfc/rfc9110#section-15
_RETRYABLE = {408, 425, 429}


class Response:
    """An answer: `status`, `headers` (a dictionary of lower-case names) and `body` (bytes)."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def ok(self):
        """Whether the status is one of success."""
        return 200 <= self.status < 300

    @property
    def text(self):
        """The body as UTF-8."""
        return self.body.decode("utf-8", "replace")

    def json(self):
        """The body's JSON. Anything else raises `Permanent`."""
        try:
            return _json.loads(self.body)
        except ValueError:
            raise Permanent(f"the answer is not JSON: {self.text[:200]!r}") from None

    def check(self):
        """This answer, if it is one of success. 408, 425, 429 and 5xx raise `Retryable`, after the seconds of Retry-After; all else `Permanent`."""
        if self.ok:
            return self
        message = f"the server answered {self.status}: {self.text[:200]!r}"
        if self.status in _RETRYABLE or self.status >= 500:
            after = self.headers.get("retry-after", "")
            raise Retryable(message, int(after) if after.isascii() and after.isdigit() else None)
        raise Permanent(message)


def fetch(url, method=None, *, json=None, body=None, headers=None, timeout_seconds=None):
    """Asks and reads the whole answer. `json` is sent as JSON, `body` as it is; the method is GET, or POST with one of these.

    Send no keys: the daemon puts them in. A redirect is an answer like any other. Raises `Denied` for what the settings do not allow,
    and `Retryable` when there is no answer. `timeout_seconds` is the longest silence before and in the answer.
    """
    sent = {name.lower(): value for name, value in (headers or {}).items()}
    if json is not None:
        body = _json.dumps(json).encode()
        sent.setdefault("content-type", "application/json")
    elif isinstance(body, str):
        body = body.encode()
    if body is not None:
        sent["content-length"] = str(len(body))
    method = (method or ("GET" if body is None else "POST")).upper()
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise Permanent(f"`{url}` is no http or https address")
    if not IS_COMPONENT:
        return Response(*local.answer(method, url, sent, body))
    try:
        return _ask(method, parts, sent, body, timeout_seconds)
    except Err as error:
        name = type(error.value).__name__.removeprefix("ErrorCode_").removeprefix("StreamError_")
        if name == "HttpRequestDenied":
            raise Denied(f"the agent may not call {parts.scheme}://{parts.netloc}: `sandclock why-denied` names the rule") from None
        raise Retryable(f"no answer from {parts.scheme}://{parts.netloc}: {name}") from None


def _ask(method, parts, headers, body, timeout_seconds):
    # What is opened must be closed from the last to the first: the parts of a call belong to each other.
    with ExitStack() as opened:
        request = _request(method, parts, headers)
        outgoing = None if body is None else request.body()
        answer = opened.enter_context(outgoing_handler.handle(request, _options(timeout_seconds)))
        if outgoing is not None:
            _write(outgoing, body)
        with answer.subscribe() as ready:
            ready.block()
        response = opened.enter_context(_unwrapped(answer.get()))
        with response.headers() as fields:
            told = {name.lower(): value.decode("utf-8", "replace") for name, value in fields.entries()}
        incoming = opened.enter_context(response.consume())
        return Response(response.status(), told, _read(opened.enter_context(incoming.stream())))


def _request(method, parts, headers):
    fields = types.Fields()
    for name, value in headers.items():
        fields.append(name, value.encode())
    request = types.OutgoingRequest(fields)
    known = getattr(types, f"Method_{method.capitalize()}", None)
    request.set_method(known() if known and method != "OTHER" else types.Method_Other(method))
    request.set_scheme(types.Scheme_Http() if parts.scheme == "http" else types.Scheme_Https())
    request.set_authority(parts.netloc)
    request.set_path_with_query((parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
    return request


def _options(timeout_seconds):
    if timeout_seconds is None:
        return None
    options, nanoseconds = types.RequestOptions(), int(timeout_seconds * 1_000_000_000)
    options.set_first_byte_timeout(nanoseconds)
    options.set_between_bytes_timeout(nanoseconds)
    return options


def _write(outgoing, body):
    with outgoing.write() as stream:
        for start in range(0, len(body), _WRITE_BYTES):
            stream.blocking_write_and_flush(body[start : start + _WRITE_BYTES])
    types.OutgoingBody.finish(outgoing, None)


def _unwrapped(got):
    # An option of a result of a result: of the answer, of what went wrong with the call, and of a second `get`.
    for _ in range(2):
        if isinstance(got, Err):
            raise got
        got = got.value
    return got


def _read(stream):
    read = bytearray()
    while True:
        try:
            read += stream.blocking_read(_READ_BYTES)
        except Err as error:
            if isinstance(error.value, streams.StreamError_Closed):
                return bytes(read)
            raise
