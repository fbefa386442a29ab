"""Ends a run tidily: the signals that end a program unwind it, and the tidying is not cut off."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def ending_signals_raise() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise SystemExit (128 + number), as Ctrl-C raises already.

    Without it they end the process on the spot, and its containers stay. A handler that the
    program has installed itself is left alone, as is everything outside the main thread.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    default = [sign for sign in _ENDING if signal.getsignal(sign) == signal.SIG_DFL]
    with _handling(default, leave):
        yield


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Hold back Ctrl-C, SIGTERM and SIGHUP; what is done meanwhile must be short and limited."""

    # A function, not SIG_IGN: that would be inherited by the commands run meanwhile.
    def hold_back(number: int, frame: FrameType | None) -> None:
        pass

    with _handling([signal.SIGINT, *_ENDING], hold_back):
        yield


@contextlib.contextmanager
def _handling(
    signs: list[signal.Signals], handler: Callable[[int, FrameType | None], Any]
) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {sign: signal.signal(sign, handler) for sign in signs}
    try:
        yield
    finally:
        for sign, old in before.items():
            signal.signal(sign, old)
