"""The object through which proton does the I/O of one connection, with hbshim beneath it."""

from __future__ import annotations

import importlib
import math
import time
import weakref
from collections.abc import Callable
from typing import Any

from hbshim.adapters.proton.frames import SentFrames
from hbshim.adapters.sockets import wire_for
from hbshim.amqp1.idle import IdleTimes
from hbshim.heartbeat import service
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.schedule import SLOT
from hbshim.heartbeat.wire import AMQP_1_0
from hbshim.runtime.fork import process_mark

#: The shortest T that is kept, in seconds: the engine checks a link once in a slot. A heartbeat
#: after each slot is the best that can be done for a peer that asks for less.
SHORTEST_TIMEOUT = 2 * SLOT

#: The methods that are replaced.
_WRAPPED = ("send", "recv", "close", "update", "fileno")

_FORKED = (
    "this connection was opened before a fork and belongs to the parent process; "
    "open a new one in the child"
)


def wrap(selectable: Any, root: str, times: IdleTimes) -> Link:
    """Return the link of a connection, beneath what proton calls to send, receive and close.

    Parameters:
        selectable: the ``Selectable`` of an open connection.
        root: the package that has proton's modules.
        times: its idle times; there is a `timeout`.
    """
    assert times.timeout is not None
    selectable_ref = weakref.ref(selectable)
    wire = wire_for(selectable._delegate, AMQP_1_0)
    frames = SentFrames()

    def forked_error() -> Exception:
        return _end_copy(selectable_ref(), root)

    link = Link(
        wire,
        max(times.timeout, SHORTEST_TIMEOUT),
        wire.name(),
        service.current().metrics,
        silence=math.inf if times.silence is None else times.silence,
        half_written=lambda: frames.may_not_follow,
        half_read=_always,
        on_orphaned=lambda: _refuse_to_poll(selectable_ref(), forked_error),
        forked_error=forked_error,
    )
    _wrap_send(selectable, link, frames)
    _wrap_recv(selectable, link)
    _wrap_close(selectable, link)
    _synchronize(selectable, frames)
    return link


def _wrap_send(selectable: Any, link: Link, frames: SentFrames) -> None:
    data: Any = b""
    stock = selectable.send

    def flush() -> int:
        sent: int = stock(data)
        frames.record(data, sent)
        return sent

    guarded = link.guard.around_flush(
        flush, link.before_idle_write, _tears, link.tear, BlockingIOError
    )

    def send(some: Any) -> Any:
        nonlocal data
        data = some
        return guarded()

    selectable.send = send


def _tears(_error: BaseException) -> bool:
    """Return whether bytes may have been sent that are not recorded.

    Only a socket that accepts no more bytes raises from the call that sends. Any other exception
    may come between that call and the record of it, here or in proton.
    """
    return True


def _wrap_recv(selectable: Any, link: Link) -> None:
    stock, mine, guard = selectable.recv, process_mark(), link.guard

    def recv(size: int) -> Any:
        if not mine[0]:
            link.before_idle_write()
        data = stock(size)
        guard.last_read = time.monotonic()
        return data

    selectable.recv = recv


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


def _always() -> bool:
    return True


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
    error: Exception = exceptions.ConnectionException(_FORKED)
    transport = None if selectable is None else selectable._transport
    if transport is not None:
        condition = importlib.import_module(f"{root}._condition").Condition
        transport.condition = condition("hbshim:forked", _FORKED)
        # As proton's own IOHandler does when the stream ends.
        transport.close_head()
        transport.close_tail()
        selectable.terminate()
        selectable._transport = None
        transport._selectable = None
        selectable.update()
    return error
