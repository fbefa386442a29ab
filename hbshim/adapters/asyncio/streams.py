"""The link of a connection that a program uses through asyncio's streams.

While its event loop is blocked, the program neither writes nor reads, and another thread may send.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from hbshim.adapters.asyncio import selector
from hbshim.adapters.asyncio.attributes import replace
from hbshim.errors import AttachError
from hbshim.heartbeat import service
from hbshim.heartbeat.link import Link

_monotonic = time.monotonic


class UnknownTransportError(AttachError):
    """A connection uses a transport beneath which hbshim cannot send."""


def require_known(writer: Any) -> None:
    """Check that hbshim can send beneath the transport of `writer`.

    Raises:
        UnknownTransportError: it cannot.
        UnsupportedVersionError: hbshim does not know this version of asyncio.
    """
    transport = writer.transport
    if not selector.supports(transport):
        kind = type(transport)
        raise UnknownTransportError(
            f"hbshim cannot send beneath the transport {kind.__module__}.{kind.__qualname__}; it "
            "sends beneath plain TCP on asyncio's selector loop"
        )
    selector.require_structure(transport)


def open_link(
    writer: Any,
    timeout: float,
    forked_error: Callable[[], Exception],
    on_ended: Callable[[], None],
) -> tuple[Link, Callable[[], None]]:
    """Make the link of an open connection, with the guard in place.

    Parameters:
        writer: the ``asyncio.StreamWriter``; it is given whole frames.
        timeout: T, in seconds.
        forked_error: makes the client library's error for a write in a forked child.
        on_ended: called once, when the connection ends.

    Returns:
        The link, which is not watched yet, and a function that ends it.

    Raises:
        AttachError: the connection is closed, or hbshim cannot send beneath its transport.
        UnsupportedVersionError: hbshim does not know this version of asyncio.
    """
    require_known(writer)
    transport = writer.transport
    if transport.is_closing():
        raise AttachError("the connection is closing; open a new one")
    wire = selector.wire_for(transport)
    link = Link(
        wire,
        timeout,
        wire.name(),
        service.current().metrics,
        half_written=selector.half_written(transport),
        half_read=_always,
        forked_error=forked_error,
    )
    restorers: list[Callable[[], None]] = []

    def end() -> None:
        link.close()
        while restorers:
            restorers.pop()()

    restorers += [
        on_ended,
        _observe(transport.get_protocol(), link, end),
        selector.guard(transport, link, end),
    ]
    return link, end


def _always() -> bool:
    """Return True: asyncio's reader may hold the beginning of a frame.

    So no heartbeat is taken off the receive queue. It has space for 12 800 of them, and a loop that
    runs reads them.
    """
    return True


def _observe(protocol: Any, link: Link, end: Callable[[], None]) -> Callable[[], None]:
    """Note when the program reads, and when the connection is lost; return what undoes it."""
    guard, received, lost = link.guard, protocol.data_received, protocol.connection_lost

    def data_received(data: bytes) -> None:
        guard.last_read = _monotonic()
        received(data)

    def connection_lost(error: BaseException | None) -> None:
        end()
        lost(error)

    return replace(protocol, {"data_received": data_received, "connection_lost": connection_lost})
