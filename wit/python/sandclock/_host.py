"""The daemon's functions in a component, and those of `sandclock.local` elsewhere."""

from ._failures import Cancelled, Failed, Permanent, Retryable

try:
    from componentize_py_types import Err
    from wit_world.exports import entry
    from wit_world.imports import approval, context, logging, progress
    from wit_world.imports import checkpoint as _checkpoint
    from wit_world.imports import wasi_config_store as config
    from wit_world.imports import wasi_keyvalue_store as _keyvalue

    IS_COMPONENT = True
except ImportError:
    from .local import approval, checkpoint, config, context, keyvalue, logging, progress

    IS_COMPONENT = False

MOST_MS = 2**31 - 1

if IS_COMPONENT:

    def _told(call):
        """A function of the daemon whose errors are sentences."""

        def told(*arguments):
            try:
                return call(*arguments)
            except Err as error:
                value = error.value
                raise Failed(value if isinstance(value, str) else getattr(value, "value", type(value).__name__)) from None

        return told

    class checkpoint:
        load, names, remove = _checkpoint.load, _checkpoint.names, _checkpoint.remove
        save = staticmethod(_told(_checkpoint.save))

    class keyvalue:
        class _Bucket:
            def __init__(self, bucket):
                self.get, self.set = _told(bucket.get), _told(bucket.set)
                self.delete, self.list_keys = _told(bucket.delete), _told(bucket.list_keys)

        @staticmethod
        def open(name):
            return keyvalue._Bucket(_told(_keyvalue.open)(name))


def _failure(error):
    match error:
        case Retryable():
            after = error.after_seconds
            return entry.Failure_Retryable(entry.Retry(str(error), None if after is None else min(max(int(after * 1000), 0), MOST_MS)))
        case Permanent():
            return entry.Failure_Permanent(str(error))
        case Cancelled():
            return entry.Failure_Cancelled(str(error))


def _text(result):
    """The result, if it is text; the tool chain would end the attempt for anything else with a trace that names no mend."""
    if isinstance(result, str):
        return result
    given = "None" if result is None else f"a value of type {type(result).__name__}"
    raise Permanent(f"run gave {given}, and must return text: return str(…)")


def export(run):
    """Makes a function that takes the query and returns the result the component's entry: `Entry = export(run)`.

    The result is text; anything else fails the run for good.
    """

    class Entry:
        def run(self, query):
            try:
                return _text(run(query))
            except (Retryable, Permanent, Cancelled) as error:
                if not IS_COMPONENT:
                    raise
                raise Err(_failure(error)) from None

    return Entry
