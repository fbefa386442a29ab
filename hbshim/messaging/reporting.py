"""Errors that no caller waits for: a callback or the log receives them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

from hbshim.errors import HbshimError

#: Called with an error that no caller waits for.
OnError: TypeAlias = Callable[[BaseException], None]

LOG = logging.getLogger("hbshim.messaging")


def log_error(error: BaseException) -> None:
    """Log `error`, with its traceback unless it is one of hbshim's errors."""
    trace = None if isinstance(error, HbshimError) else error
    LOG.error("%s: %s", type(error).__name__, error, exc_info=trace)


def reporting_to(on_error: OnError | None) -> OnError:
    """Return a function that reports to `on_error`, or to the log.

    It raises only what has to end the thread, see :func:`ends_thread`. Other errors of the callback
    are logged.
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
    """Return whether `error` is meant for the thread in which it is raised, and has to end it.

    Any other error of a handler ends nothing, including a ``sys.exit()`` and the timeout of a green
    library, which is not an Exception.
    """
    return isinstance(error, KeyboardInterrupt | GeneratorExit) or any(
        kind.__name__ == "GreenletExit" for kind in type(error).__mro__
    )
