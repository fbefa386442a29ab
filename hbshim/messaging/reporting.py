"""Errors that no caller waits for: they go to a callback, or to the log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

from hbshim.errors import HbshimError

#: Called with an error that no caller waits for.
OnError: TypeAlias = Callable[[BaseException], None]

LOG = logging.getLogger("hbshim.messaging")


def log_error(error: BaseException) -> None:
    """Log `error`; with its traceback, unless it is one of hbshim's own, which name the remedy."""
    trace = None if isinstance(error, HbshimError) else error
    LOG.error("%s: %s", type(error).__name__, error, exc_info=trace)


def reporting_to(on_error: OnError | None) -> OnError:
    """Return a function that reports to `on_error`, or to the log.

    It raises only what has to end the thread, see :func:`ends_thread`.

    The threads that report go on, whatever else the application's callback raises.
    """
    report = log_error if on_error is None else on_error

    def report_safely(error: BaseException) -> None:
        try:
            report(error)
        except BaseException as raised:
            if ends_thread(raised):
                raise
            LOG.exception("the callback for errors raised an error; it was called with %r", error)

    return report_safely


def ends_thread(error: BaseException) -> bool:
    """Whether `error` is meant for the thread that it is raised in, and has to end it.

    What a handler raises is otherwise its own, and ends nothing: neither a ``sys.exit()`` in
    it, nor the timeout of a green library, which is no Exception.
    """
    return isinstance(error, KeyboardInterrupt | GeneratorExit) or any(
        kind.__name__ == "GreenletExit" for kind in type(error).__mro__
    )
