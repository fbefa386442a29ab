"""The object through which proton does the I/O of one connection, with hbshim beneath it."""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Callable
from typing import Any

from hbshim.adapters.proton.frames import SentFrames
from hbshim.adapters.proton.io import guarded_recv, guarded_send, link_beneath
from hbshim.amqp1.idle import IdleTimes
from hbshim.heartbeat.link import Link
from hbshim.runtime.fork import OPENED_BEFORE_FORK

#: The methods that are replaced.
_WRAPPED = ("send", "recv", "close", "update", "fileno")


def wrap(selectable: Any, root: str, times: IdleTimes) -> Link:
    """Return the link of a connection, beneath what proton calls to send, receive and close.

    Parameters:
        selectable: the ``Selectable`` of an open connection.
        root: the package that has proton's modules.
        times: its idle times; there is a `timeout`.
    """
    selectable_ref = weakref.ref(selectable)
    frames = SentFrames()

    def forked_error() -> Exception:
        return _end_copy(selectable_ref(), root)

    link = link_beneath(
        selectable._delegate,
        times,
        frames,
        on_orphaned=lambda: _refuse_to_poll(selectable_ref(), forked_error),
        forked_error=forked_error,
    )
    selectable.send = guarded_send(link, frames, selectable.send)
    selectable.recv = guarded_recv(link, selectable.recv)
    _wrap_close(selectable, link)
    _synchronize(selectable, frames)
    return link


def _wrap_close(selectable: Any, link: Link) -> None:
    stock = selectable.close

    def close() -> None:
        link.close()
        unwrap(selectable)
        stock()

    selectable.close = close


def _synchronize(selectable: Any, frames: SentFrames) -> None:
    """Find out where the stream stands, now or as soon as proton has sent all that it has."""
    stock = selectable.update

    def update() -> None:
        stock()
        transport = selectable._transport
        if transport is not None and not selectable.writing and transport.pending() == 0:
            frames.synchronize()
            selectable.__dict__.pop("update", None)

    if selectable._transport.pending() == 0:
        frames.synchronize()
    else:
        selectable.update = update


def unwrap(selectable: Any) -> None:
    """Undo :func:`wrap`."""
    for name in _WRAPPED:
        selectable.__dict__.pop(name, None)


def _refuse_to_poll(selectable: Any, forked_error: Callable[[], Exception]) -> None:
    """In a forked child: have proton refuse its own loop, which would poll a closed descriptor.

    Calls nothing of proton: another thread of the parent may have been inside of it.
    """

    def fileno() -> int:
        raise forked_error()

    if selectable is not None:
        selectable.fileno = fileno


def _end_copy(selectable: Any, root: str) -> Exception:
    """In a forked child that uses the connection: have proton close it; return the error."""
    exceptions = importlib.import_module(f"{root}._exceptions")
    error: Exception = exceptions.ConnectionException(OPENED_BEFORE_FORK)
    transport = None if selectable is None else selectable._transport
    if transport is not None:
        condition = importlib.import_module(f"{root}._condition").Condition
        transport.condition = condition("hbshim:forked", OPENED_BEFORE_FORK)
        # As proton's own IOHandler does when the stream ends.
        transport.close_head()
        transport.close_tail()
        selectable.terminate()
        selectable._transport = None
        transport._selectable = None
        selectable.update()
    return error
