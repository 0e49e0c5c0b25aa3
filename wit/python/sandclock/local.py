"""The daemon's functions for tests outside of a component: everything is kept in memory and can be looked at.

    from sandclock import local

    local.reset()
    local.answers["https://api.example.com/ask"] = (200, {"text": "42"})
    assert agent.run("what?") == "42"
    assert local.requests[0]["json"] == {"q": "what?"}
"""

import json as _json
from enum import Enum
from types import SimpleNamespace

checkpoints = {}
"""What was saved, by name."""
reports = []
"""The sentences and fractions of `progress`."""
events = []
"""The names and payloads of `event`."""
lines = []
"""The levels, topics and messages of `log`."""
answers = {}
"""What `fetch` answers, by URL: a status and a body, bytes, text or what JSON can say; or a list of these, taken one after the other."""
requests = []
"""What was fetched: `method`, `url`, `headers`, `body` and, where it is some, `json`."""
decisions = {}
"""The decisions of persons, by key: `Decision(approved, by, note)`."""
configuration = {}
"""The agent's configuration, texts by name."""
memories = {}
"""What is kept from run to run, by bucket and key."""
who = {}
"""What `context` tells; what is missing is told as in a first attempt."""
state = SimpleNamespace(is_cancelled=False)
"""Whether the run was asked to stop."""


def reset():
    """Forgets all of it."""
    for kept in (checkpoints, reports, events, lines, answers, requests, decisions, configuration, memories, who):
        kept.clear()
    state.is_cancelled = False


def answer(method, url, headers, body):
    """What `fetch` gets; keeps what it asked."""
    request = {"method": method, "url": url, "headers": headers, "body": body}
    if headers.get("content-type") == "application/json":
        request["json"] = _json.loads(body)
    requests.append(request)
    if url not in answers:
        raise AssertionError(f"the test has no answer for {url}: set local.answers[{url!r}]")
    given = answers[url]
    status, said = given.pop(0) if isinstance(given, list) else given
    if isinstance(said, str):
        said = said.encode()
    elif not isinstance(said, bytes):
        said = _json.dumps(said).encode()
    return status, {}, said


class Decision(SimpleNamespace):
    """A person's decision."""

    def __init__(self, approved, by="somebody", note=""):
        super().__init__(approved=approved, by=by, note=note)


class approval:
    @staticmethod
    def ask(key, question):
        if key not in decisions:
            raise AssertionError(f"the agent asks `{question}`, and the test has no decision: set local.decisions[{key!r}]")
        return decisions[key]

    find = staticmethod(decisions.get)


class checkpoint:
    load, save = staticmethod(checkpoints.get), staticmethod(checkpoints.__setitem__)
    names = staticmethod(lambda: sorted(checkpoints))
    remove = staticmethod(lambda name: checkpoints.pop(name, None))


class config:
    get = staticmethod(configuration.get)


def _told(name, otherwise):
    return staticmethod(lambda: who.get(name, otherwise))


class context:
    run_id, task_id = _told("run_id", "run_1"), _told("task_id", "task")
    agent_id, session_id = _told("agent_id", "agent"), _told("session_id", "session")
    attempt, trigger, due_at = _told("attempt", 1), _told("trigger", "manual"), _told("due_at", None)
    metadata, time_left_ms = _told("metadata", "{}"), _told("time_left_ms", None)


class logging:
    Level = Enum("Level", ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "CRITICAL"])
    log = staticmethod(lambda level, topic, message: lines.append((level.name.lower(), topic, message)))


class progress:
    report = staticmethod(lambda message, fraction: reports.append((message, fraction)))
    emit = staticmethod(lambda name, payload: events.append((name, _json.loads(payload))))
    cancelled = staticmethod(lambda: state.is_cancelled)
    sleep = staticmethod(lambda ms: state.is_cancelled)


class keyvalue:
    class _Bucket:
        def __init__(self, values):
            self.get, self.set = values.get, values.__setitem__
            self.delete = lambda key: values.pop(key, None)
            self.list_keys = lambda cursor: SimpleNamespace(keys=list(values), cursor=None)

    @staticmethod
    def open(name):
        return keyvalue._Bucket(memories.setdefault(name, {}))
