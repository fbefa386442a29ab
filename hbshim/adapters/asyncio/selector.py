"""The transports of asyncio's selector loop, over plain TCP.

Such a transport passes what it is given to the kernel at once. It keeps what the kernel does not
take, and sends that when the loop finds the socket writable. While it keeps something, the rest of
a frame may be in it: no heartbeat is sent then.

Python 3.12 and later take a piece off that buffer and put the rest of it back, so the buffer may
look empty for a moment in the middle of a frame. And ``abort()`` empties it before it closes the
socket. So sending the buffer and closing are guarded, too.
"""

from __future__ import annotations

import platform
from asyncio import selector_events
from collections.abc import Callable
from typing import Any

from hbshim.adapters.asyncio.attributes import replace
from hbshim.adapters.sockets import native_socket
from hbshim.adapters.versions import require_attributes
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.wire import Wire

#: The versions of Python whose transports are known.
SUPPORTED = ">=3.10,<3.15"

_NAMES = ("_sock", "_sock_fd", "_buffer", "_loop", "_write_ready", "_force_close", "__dict__")


def is_selector_transport(transport: Any) -> bool:
    """Return whether `transport` is a TCP transport of asyncio's selector loop."""
    return isinstance(transport, selector_events._SelectorSocketTransport)  # type: ignore[attr-defined]


class SelectorTransport:
    """Sends beneath such a transport. See :class:`hbshim.adapters.asyncio.streams.Beneath`.

    Raises:
        UnsupportedVersionError: the transport does not have the attributes that are used here.
    """

    supports = staticmethod(is_selector_transport)

    def __init__(self, writer: Any) -> None:
        self._transport = writer.transport
        self.require_structure(self._transport)

    @staticmethod
    def require_structure(transport: Any) -> None:
        require_attributes("asyncio", platform.python_version(), SUPPORTED, transport, _NAMES)

    def wire(self) -> Wire:
        return Wire(native_socket(self._transport._sock))

    def half_written(self) -> Callable[[], bool]:
        buffer = self._transport._buffer
        return lambda: bool(buffer)

    def guard(self, link: Link, end: Callable[[], None]) -> Callable[[], None]:
        transport, guard = self._transport, link.guard
        check, tear = link.before_idle_write, link.tear
        return replace_methods(
            transport,
            end,
            guard.around_send(transport.write, check, tears, tear),
            guard.around_flush(transport._write_ready, check, tears, tear),
        )


def replace_methods(
    transport: Any,
    end: Callable[[], None],
    write: Callable[[Any], None],
    flush: Callable[[], Any],
) -> Callable[[], None]:
    """Replace the methods of a selector transport that send and that close.

    Parameters:
        transport: the transport.
        end: called before it closes, or drops what it has not sent.
        write: takes the place of ``write()``.
        flush: takes the place of the function that sends what is buffered.

    Returns:
        A function that restores the transport's own methods.
    """
    close, force_close = transport.close, transport._force_close

    def end_and_close() -> None:
        try:
            end()
        finally:
            close()

    def end_and_force_close(error: BaseException | None) -> None:
        try:
            end()
        finally:
            force_close(error)

    restore = replace(
        transport,
        {
            "write": write,
            "_write_ready": flush,
            "close": end_and_close,
            "_force_close": end_and_force_close,
        },
    )
    if transport._buffer:
        # The loop has the function that was there before.
        transport._loop._add_writer(transport._sock_fd, flush)
    return restore


def tears(_error: BaseException) -> bool:
    """Return True: a transport handles errors of the socket itself.

    So an exception comes from elsewhere, such as a signal handler, and perhaps between a partial
    send and the transport's own record of it.
    """
    return True
