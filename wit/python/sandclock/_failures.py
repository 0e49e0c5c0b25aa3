"""How a run does not succeed."""


class Retryable(Exception):
    """Another attempt may help; `after_seconds` is the least delay before it, the task's policy without."""

    def __init__(self, message, after_seconds=None):
        super().__init__(message)
        self.after_seconds = after_seconds


class Permanent(Exception):
    """Another attempt cannot help: the run fails with this sentence."""


class Denied(Permanent):
    """The agent's settings do not allow the call; `sandclock why-denied RUN` says which rule it was."""


class Cancelled(Exception):
    """The agent stopped because the run was asked to."""


class Failed(Exception):
    """What the daemon answered a call with, in a sentence."""
