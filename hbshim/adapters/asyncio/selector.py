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


def supports(transport: Any) -> bool:
    """Return whether `transport` is one of these."""
    return isinstance(transport, selector_events._SelectorSocketTransport)  # type: ignore[attr-defined]


def require_structure(transport: Any) -> None:
    """Check that `transport` has the attributes that are used here.

    Raises:
        UnsupportedVersionError: one is missing.
    """
    require_attributes("asyncio", platform.python_version(), SUPPORTED, transport, _NAMES)


def wire_for(transport: Any) -> Wire:
    """Return the wire beneath `transport`."""
    return Wire(native_socket(transport._sock))


def half_written(transport: Any) -> Callable[[], bool]:
    """Return a function that returns whether `transport` may hold the rest of a frame."""
    buffer = transport._buffer
    return lambda: bool(buffer)


def guard(transport: Any, link: Link, end: Callable[[], None]) -> Callable[[], None]:
    """Put the guard around what sends and what closes.

    Parameters:
        transport: the transport.
        link: its link.
        end: called before the transport closes, or drops what it has not sent.

    Returns:
        A function that removes the guard.
    """
    lock, check, tear = link.guard, link.before_idle_write, link.tear
    close, force_close = transport.close, transport._force_close

    def end_and_close() -> None:
        end()
        close()

    def end_and_force_close(error: BaseException | None) -> None:
        end()
        force_close(error)

    restore = replace(
        transport,
        {
            "write": lock.around_send(transport.write, check, _tears, tear),
            "_write_ready": lock.around_flush(transport._write_ready, check, _tears, tear),
            "close": end_and_close,
            "_force_close": end_and_force_close,
        },
    )
    if transport._buffer:
        # The loop has the function that was there before.
        transport._loop._add_writer(transport._sock_fd, transport._write_ready)
    return restore


def _tears(_error: BaseException) -> bool:
    """Return True: the transport handles errors of the socket itself.

    So an exception comes from elsewhere, such as a signal handler, and perhaps between a partial
    send and the transport's own record of it.
    """
    return True
