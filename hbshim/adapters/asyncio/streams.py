"""The link of a connection that a program uses through asyncio's streams.

While its event loop is blocked, the program neither writes nor reads, and another thread may send.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from hbshim.adapters.asyncio.attributes import replace
from hbshim.adapters.asyncio.selector import SelectorTransport
from hbshim.adapters.asyncio.tls import TlsTransport
from hbshim.adapters.asyncio.uv import UvTransport
from hbshim.adapters.loop_link import LoopLink
from hbshim.errors import AttachError
from hbshim.heartbeat import service
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.wire import Wire

_monotonic = time.monotonic


class UnknownTransportError(AttachError):
    """A connection uses a transport beneath which hbshim cannot send."""


class Beneath(Protocol):
    """Sends beneath one kind of transport."""

    def wire(self) -> Wire:
        """Return the wire beneath the transport.

        Raises:
            AttachError: it is closed.
        """

    def half_written(self) -> Callable[[], bool]:
        """Return a function that returns whether the transport may hold the rest of a frame.

        The heartbeat thread calls it. It does not keep the transport alive.
        """

    def guard(self, link: Link, end: Callable[[], None]) -> Callable[[], None]:
        """Put the guard around what writes and what closes; return what undoes it.

        Parameters:
            link: the link.
            end: to be called before the transport closes, or drops what it has not sent.
        """


_KINDS = (SelectorTransport, TlsTransport, UvTransport)


def beneath(writer: Any) -> Beneath:
    """Return what sends beneath the transport of `writer`, an ``asyncio.StreamWriter``.

    Raises:
        UnknownTransportError: no heartbeat can be sent there.
        UnsupportedVersionError: hbshim does not know this version of asyncio.
    """
    for kind in _KINDS:
        if kind.supports(writer.transport):
            return kind(writer)
    unknown = type(writer.transport)
    raise UnknownTransportError(
        f"hbshim cannot send beneath the transport {unknown.__module__}.{unknown.__qualname__}; "
        "use plain TCP, or TLS on asyncio's own event loop instead of uvloop"
    )


def open_link(
    writer: Any,
    timeout: float,
    silence: float,
    forked_error: Callable[[], Exception],
    on_ended: Callable[[], None],
    closing: Callable[[], bool],
) -> tuple[Link, Callable[[], None]]:
    """Make the link of an open connection, with the guard in place.

    Parameters:
        writer: the ``asyncio.StreamWriter``; it is given whole frames.
        timeout: T, in seconds.
        silence: seconds without a byte received after which the peer is dead.
        forked_error: makes the client library's error for a write in a forked child.
        on_ended: called once, when the connection ends.
        closing: see :class:`hbshim.heartbeat.link.Link`.

    Returns:
        The link, which is not watched yet, and a function that ends it.

    Raises:
        AttachError: the connection is closed, or hbshim cannot send beneath its transport.
        UnsupportedVersionError: hbshim does not know this version of asyncio.
    """
    transport, below = writer.transport, beneath(writer)
    if transport.is_closing():
        raise AttachError("the connection is closing; open a new one")
    wire = below.wire()
    link = LoopLink(
        wire,
        timeout,
        wire.name(),
        service.current().metrics,
        silence=silence,
        half_written=below.half_written(),
        half_read=_always,
        closing=closing,
        forked_error=forked_error,
    )
    link.belongs_to(writer._loop)
    restorers: list[Callable[[], None]] = []

    def end() -> None:
        link.close()
        while restorers:
            restorers.pop()()

    restorers.append(on_ended)
    restorers.append(_observe(transport.get_protocol(), link, end))
    restorers.append(below.guard(link, end))
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
        try:
            end()
        finally:
            lost(error)

    return replace(protocol, {"data_received": data_received, "connection_lost": connection_lost})
