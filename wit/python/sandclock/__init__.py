"""What a sandclock agent written in Python needs.

    from sandclock import export, fetch, progress, step

    def run(query):
        progress("asking", 0.5)
        answer = step("answer", lambda: fetch("https://api.example.com/ask", json={"q": query}).check().json())
        with open("answer.md", "w") as file:
            file.write(answer["text"])
        return answer["text"]

    Entry = export(run)

Inside of a component these functions are the daemon's. Outside, in a test, they are those of `sandclock.local`, which keeps all in memory.
Import everything at the top of your modules: what is not imported when the component is built cannot be imported when it runs.
"""

import json as _json

from ._failures import Cancelled, Denied, Failed, Permanent, Retryable
from ._host import approval as _approval
from ._host import checkpoint as _checkpoint
from ._host import config as _config
from ._host import context, export
from ._host import keyvalue as _keyvalue
from ._host import logging as _logging
from ._host import progress as _progress
from ._http import Response, fetch

__all__ = [
    "Cancelled", "Denied", "Failed", "Memory", "Permanent", "Response", "Retryable", "ask", "cancelled", "config", "context", "decision",
    "event", "export", "fetch", "log", "memory", "metadata", "progress", "sleep", "step", "stop_if_cancelled",
]


def progress(message, fraction=None):
    """Tells the run's watchers a sentence, and the part done, from 0 to 1."""
    _progress.report(message, fraction)


def event(name, payload=None):
    """Tells the run's watchers an event of the agent's own, with what JSON can say."""
    _progress.emit(name, _json.dumps(payload))


def cancelled():
    """Whether the run was asked to stop."""
    return _progress.cancelled()


def stop_if_cancelled(message="stopped, because the run was asked to"):
    """Ends the run as cancelled, by `Cancelled`, if it was asked to stop."""
    if cancelled():
        raise Cancelled(message)


def sleep(seconds):
    """Waits; returns early, and true, when the run is asked to stop."""
    return _progress.sleep(int(seconds * 1000))


def metadata():
    """The task's metadata, a dictionary."""
    return _json.loads(context.metadata())


def step(name, work):
    """What `work()` gave in this attempt, or gave and saved under this name in an earlier attempt of the run: it is not done again.

    The value is what JSON can say. A save that the daemon refuses, by a limit, raises `Permanent`.
    """
    saved = _checkpoint.load(name)
    if saved is not None:
        return _json.loads(saved)
    text = _json.dumps(work())
    try:
        _checkpoint.save(name, text.encode())
    except Failed as refused:
        raise Permanent(f"the step `{name}` cannot be saved: {refused}") from None
    return _json.loads(text)


def ask(key, question):
    """A person's decision, with `approved`, `by` and `note`. Without one the attempt ends in here, and the run waits for it; a later
    attempt that asks under the same key gets it."""
    return _approval.ask(key, question)


def decision(key):
    """The decision under this key, or `None`; does not wait."""
    return _approval.find(key)


def config(name, default=None):
    """A text of the agent's configuration, or the default."""
    value = _config.get(name)
    return default if value is None else value


def log(message, level="info", topic=""):
    """A line with a level in the run's log: trace, debug, info, warn, error or critical. `print` makes one without."""
    _logging.log(_logging.Level[level.upper()], topic, message)


def memory(bucket="session"):
    """What the agent keeps from run to run: in its session, or with "agent" for all of its runs."""
    return Memory(bucket)


class Memory:
    """Values that JSON can say under keys. What the daemon refuses, by a quota, raises `Permanent`."""

    def __init__(self, bucket):
        self._bucket = _kept(_keyvalue.open, bucket)

    def get(self, key, default=None):
        """The value of a key, or the default."""
        value = _kept(self._bucket.get, key)
        return default if value is None else _json.loads(value)

    def set(self, key, value):
        """Keeps a value; it is kept when this returns."""
        _kept(self._bucket.set, key, _json.dumps(value).encode())

    def delete(self, key):
        """Forgets a key; one that is not there is no error."""
        _kept(self._bucket.delete, key)

    def keys(self):
        """All keys, in no particular order."""
        found, cursor = [], None
        while True:
            page = _kept(self._bucket.list_keys, cursor)
            found.extend(page.keys)
            cursor = page.cursor
            if cursor is None:
                return found


def _kept(call, *arguments):
    try:
        return call(*arguments)
    except Failed as refused:
        raise Permanent(f"the agent's memory refused: {refused}") from None
