"""Calls into a connection that began before it was attached, and have not ended.

``keep_alive()`` may be called while another thread is inside a read or a write of the connection,
or by a signal handler that has interrupted one. Such a call passed neither the guard nor the lock
of a TLS session, which are put in place only now. So the engine leaves alone what the call uses
until it has ended: a read ends with the peer's next frame, which may be a heartbeat.

The calls are found in the stacks of all threads. This costs nothing once none was found, because
later calls pass the guard and the lock. Calls of green threads that wait in their hub are not
found.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeAlias

_IsEarlier: TypeAlias = Callable[[FrameType, "FrameType | None"], bool]

#: Modules whose calls pass the guard or the lock.
_OWN = "hbshim."


class EarlierCalls:
    """Returns, when called, whether one of the calls has not ended; any thread may ask.

    Parameters:
        are_earlier: each is given a frame of a stack, and the frame of the function that it calls,
            or None.
    """

    __slots__ = ("_are_earlier", "_ended")

    def __init__(self, *are_earlier: _IsEarlier) -> None:
        self._are_earlier = are_earlier
        self._ended = False

    def __call__(self) -> bool:
        if self._ended:
            return False
        for frame, called in _frames():
            if any(is_earlier(frame, called) for is_earlier in self._are_earlier):
                return True
        self._ended = True
        return False


def _frames() -> Iterator[tuple[FrameType, FrameType | None]]:
    for top in sys._current_frames().values():
        frame: FrameType | None = top
        called: FrameType | None = None
        while frame is not None:
            yield frame, called
            frame, called = frame.f_back, frame


def of_function(function: Any) -> _IsEarlier:
    """Find calls of a Python function that the guard has not made.

    Parameters:
        function: a bound method, or a closure. Nothing of it is kept alive.
    """
    code = getattr(function, "__code__", None)
    if code is None:
        return _never  # what another tool has put in its place
    owner = getattr(function, "__self__", None)
    if owner is not None:
        own = {code.co_varnames[0]: id(owner)}
        alive = weakref.ref(owner)
    else:
        cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
        own = {name: id(cell.cell_contents) for name, cell in cells}
        alive = weakref.ref(function)

    def is_earlier(frame: FrameType, _called: FrameType | None) -> bool:
        if frame.f_code is not code or alive() is None or _is_own(frame.f_back):
            return False
        names = frame.f_locals
        return all(id(names.get(name)) == value for name, value in own.items())

    return is_earlier


def of_session(sock: Any) -> _IsEarlier:
    """Find calls of a TLS socket's methods that have called the SSL object without the lock."""
    modules = {kind.__module__ for kind in type(sock).__mro__}
    alive = weakref.ref(sock)

    def is_method(frame: FrameType) -> bool:
        code = frame.f_code
        return (
            frame.f_globals.get("__name__") in modules
            and code.co_argcount > 0
            and frame.f_locals.get(code.co_varnames[0]) is alive()
        )

    def is_earlier(frame: FrameType, called: FrameType | None) -> bool:
        if not is_method(frame):
            return False
        return called is None or not (_is_own(called) or is_method(called))

    return is_earlier


def _never(_frame: FrameType, _called: FrameType | None) -> bool:
    return False


def _is_own(frame: FrameType | None) -> bool:
    return frame is not None and str(frame.f_globals.get("__name__")).startswith(_OWN)
