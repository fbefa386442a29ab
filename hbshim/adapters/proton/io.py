"""The link of one connection of proton, beneath the functions that send and receive for it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from hbshim.adapters.proton.frames import SentFrames
from hbshim.adapters.sockets import wire_for
from hbshim.amqp1.idle import IdleTimes
from hbshim.errors import AttachError
from hbshim.heartbeat import service
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.schedule import SLOT
from hbshim.heartbeat.wire import AMQP_1_0
from hbshim.runtime.fork import process_mark

#: The shortest T that is kept, in seconds: the engine checks a link once in a slot. A heartbeat
#: after each slot is the best that can be done for a peer that asks for less.
SHORTEST_TIMEOUT = 2 * SLOT


def link_beneath(
    sock: Any,
    times: IdleTimes,
    frames: SentFrames,
    *,
    on_orphaned: Callable[[], None],
    forked_error: Callable[[], Exception],
) -> Link:
    """Return the link of an open connection.

    Parameters:
        sock: its socket.
        times: its idle times; there is a `timeout`.
        frames: follows what is sent.
        on_orphaned, forked_error: see :class:`hbshim.heartbeat.link.Link`.

    Raises:
        AttachError: the connection has ended.
    """
    assert times.timeout is not None
    wire = wire_for(sock, AMQP_1_0)
    try:
        name = wire.name()
    except OSError as error:
        raise AttachError(f"this connection has ended ({error}); attach a new one") from error
    return Link(
        wire,
        max(times.timeout, SHORTEST_TIMEOUT),
        name,
        service.current().metrics,
        silence=math.inf if times.silence is None else times.silence,
        half_written=lambda: frames.may_not_follow,
        # The engine keeps the part of a frame that it has read, and does not show it.
        half_read=lambda: True,
        closing=lambda: frames.closing,
        on_orphaned=on_orphaned,
        forked_error=forked_error,
    )


def guarded_send(
    link: Link, frames: SentFrames, stock: Callable[[Any], int]
) -> Callable[[Any], Any]:
    """Wrap the function that sends as much of some bytes as the socket takes.

    It returns how many it has sent, and proton forgets these. If an exception keeps the number from
    proton, it would send the bytes once more: the stream has to end.
    """
    data: Any = b""
    unreported = False

    def flush() -> int:
        nonlocal unreported
        sent = stock(data)
        unreported = True
        frames.record(data, sent)
        return sent

    guarded = link.guard.around_flush(
        flush, link.before_idle_write, _tears, link.tear, BlockingIOError
    )

    def send(some: Any) -> Any:
        nonlocal data, unreported
        data, unreported = some, False
        try:
            return guarded()
        except BaseException:
            if unreported:
                # Before the call, which may be interrupted, too; then the engine ends the stream.
                link.guard.torn = True
                link.tear()
            raise

    return send


def _tears(_error: BaseException) -> bool:
    """Return whether bytes may have been sent that are not recorded.

    Only a socket that accepts no more bytes raises from the call that sends. Any other exception
    may come between that call and the record of it, here or in proton.
    """
    return True


def guarded_recv(link: Link, stock: Callable[[int], Any]) -> Callable[[int], Any]:
    """Wrap the function that receives."""
    mine, guard = process_mark(), link.guard

    def recv(size: int) -> Any:
        if not mine[0]:
            link.before_idle_write()
        data = stock(size)
        guard.last_read = time.monotonic()
        return data

    return recv
