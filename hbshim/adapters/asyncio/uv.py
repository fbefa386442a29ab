"""uvloop's transports, over plain TCP.

They are compiled, so none of their methods can be replaced. None has to be:

* A program writes through the ``asyncio.StreamWriter``, and that is guarded.
* uvloop passes what it is given to the kernel at once, with the GIL held. Before version 0.23 it
  does so only if that is more than the high-water mark of its buffer, and else at the end of the
  loop's iteration, which may be blocked: so the mark is set to 0.
* What the kernel does not take goes to libuv, which counts it, and reduces the count only after a
  system call has taken the bytes. ``get_write_buffer_size()`` returns that count, so 0 means that
  every byte was taken.
* Before uvloop drops bytes, ``is_closing()`` is true.

Under TLS, uvloop's session is compiled, too, and no other thread may use it.
"""

from __future__ import annotations

import os
import weakref
from _socket import socket as NativeSocket  # noqa: N812
from collections.abc import Callable, Iterable
from typing import Any, cast

from hbshim.adapters.asyncio.attributes import replace
from hbshim.adapters.asyncio.selector import tears
from hbshim.adapters.versions import release_of
from hbshim.errors import AttachError
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.wire import Wire
from hbshim.runtime.loaded import module_of, peek


class BorrowedSocket(NativeSocket):
    """A socket object for a descriptor that uvloop owns; it never closes the descriptor.

    Before each use, :class:`Wire` checks that the number still belongs to the connection.
    """

    def __del__(self) -> None:
        self.detach()


class BorrowedWire(Wire):
    """The wire of a descriptor that uvloop owns, and closes by its number."""

    def drop(self) -> None:
        """Close this process's copy of the connection, and keep its number occupied.

        uvloop's handle closes the number later, perhaps when it is collected; it must not be that
        of another connection by then.
        """
        if not self.reused:
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.dup2(null, self.native.fileno(), inheritable=False)
            finally:
                os.close(null)
        NativeSocket.detach(self.native)


class UvTransport:
    """Sends beneath such a transport. See :class:`hbshim.adapters.asyncio.streams.Beneath`."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._native: BorrowedSocket | None = None

    @staticmethod
    def supports(transport: Any) -> bool:
        kind = type(transport)
        return (module_of(kind), kind.__qualname__) == ("uvloop.loop", "TCPTransport")

    def wire(self) -> Wire:
        sock = self._writer.get_extra_info("socket")
        descriptor = -1 if sock is None else sock.fileno()
        if descriptor < 0:
            raise AttachError("the connection is closed; open a new one")
        self._native = native = BorrowedSocket(fileno=descriptor)
        return BorrowedWire(cast(Any, native))

    def half_written(self) -> Callable[[], bool]:
        reference = weakref.ref(self._writer.transport)

        def half_written() -> bool:
            transport = reference()
            return (
                transport is None
                or transport.get_write_buffer_size() > 0
                or bool(transport.is_closing())
            )

        return half_written

    def guard(self, link: Link, end: Callable[[], None]) -> Callable[[], None]:
        writer, native = self._writer, self._native
        write, close = writer.write, writer.close

        def end_and_close() -> None:
            try:
                end()
            finally:
                close()

        guarded = link.guard.around_send(write, link.before_idle_write, tears, link.tear)

        def write_lines(parts: Iterable[bytes]) -> None:
            guarded(b"".join(parts))

        restore = replace(
            writer, {"write": guarded, "writelines": write_lines, "close": end_and_close}
        )
        # It has stored the protocol's methods, of which some have been replaced.
        writer.transport.set_protocol(writer.transport.get_protocol())
        delays = _delays_writes()
        if delays:
            writer.transport.set_write_buffer_limits(0)

        def restore_and_return() -> None:
            restore()
            if delays and not writer.transport.is_closing():
                writer.transport.set_write_buffer_limits()
            if native is not None:
                native.detach()

        return restore_and_return


def _delays_writes() -> bool:
    """Return whether uvloop writes at the end of an iteration what is below its high-water mark."""
    return release_of(str(peek("uvloop", "__version__", ""))) < (0, 23)
