"""The byte stream of one AMQP 0-9-1 connection, over any client library."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from typing import Any

from hbshim.adapters.transport import Transport
from hbshim.errors import BrokerBlockedError
from hbshim.messaging.amqp.library import Library
from hbshim.messaging.stream import ByteStream
from hbshim.options import Options
from hbshim.protocol.frames import HEARTBEAT, Frame, not_amqp

_monotonic = time.monotonic


class Stream(ByteStream[Frame]):
    """Reads frames from one connection and writes them to it.

    Parameters:
        sock: see :class:`hbshim.adapters.transport.Transport`; closed at the end.
        name: host and port.
        make_library: makes the client library's part, given the function that sends whole frames.

    Attributes:
        on_frame: called under the lock with the type, channel and payload of each frame of a
            channel other than 0.
        on_end: called once, under the lock, when the stream has ended.
    """

    def __init__(
        self, sock: Any, name: str, make_library: Callable[[Callable[[bytes], None]], Library]
    ) -> None:
        self.on_frame: Callable[[int, int, bytes], None] = _unexpected
        self.on_end: Callable[[], None] = _nothing
        self._make_library = make_library
        super().__init__(sock, name, Transport)

    def _start(self) -> None:
        self.library = self._make_library(self.send)

    @property
    def blocked(self) -> bool:
        """Whether the broker accepts no messages for now."""
        return self.library.blocked and not self.ended

    # -- the handshake -------------------------------------------------------

    def shake_hands(self, deadline: float) -> bool:
        """Do the handshake; no other thread may use the connection meanwhile.

        Returns:
            False if the broker did not answer by `deadline`.

        Raises:
            ConnectionLostError: it closed the connection, or does not speak AMQP.
        """
        self.locked(self.library.begin)
        return self._wait_for_handshake(lambda: self.library.is_open, deadline)

    def keep_alive(self, options: Options) -> None:
        """Start heartbeats, as they were negotiated."""
        myself = weakref.ref(self)

        def abandon() -> None:
            alive = myself()
            if alive is not None:
                alive._abandon()

        timeout = self.library.heartbeat_timeout
        self.locked(lambda: self._transport.keep_alive(timeout, options, abandon))

    # -- what the broker sends -------------------------------------------------

    def _handle(self, item: Frame) -> None:
        if item[1]:
            self.on_frame(*item)
        elif item[0] != HEARTBEAT:
            library = self.library
            library.feed(item)
            if library.ended or library.closed_by is not None:
                self.fail(ConnectionAbortedError("the broker closed it"))

    def _closed_by_peer(self) -> str | None:
        closed_by = self.library.closed_by
        return None if closed_by is None else f"{closed_by[1]} ({closed_by[0]})"

    def _on_ended(self) -> None:
        on_end, self.on_end, self.on_frame = self.on_end, _nothing, _unexpected
        on_end()

    def _send_close(self) -> None:
        self.library.begin_close()

    # -- writing -------------------------------------------------------------

    def write(
        self,
        data: bytes,
        deadline: float,
        on_written: Callable[[bool], None] | None = None,
        unless: Callable[[], bool] | None = None,
    ) -> bool:
        """Write a message of whole frames as soon as the broker accepts bytes.

        Parameters:
            data: the frames.
            deadline: of ``time.monotonic()``.
            on_written: called with True when `data` is being sent, and with False when it was
                taken back, before any thread has read more from the broker.
            unless: called when what the broker has sent was handled, directly before `data` is
                sent; it is not sent if this returns True.

        Returns:
            Whether it is sent.

        Raises:
            BrokerBlockedError: nothing was written.
            ConnectionLostError: a part may have been written.
        """
        transport = self._transport
        while True:
            self.check()
            with self.lock:
                # The broker's reason for closing the connection; a reading thread finds it by
                # itself.
                if not self._reading and not transport.nothing_waits():
                    self._read_available()
                    self.check()
                if unless is not None and unless():
                    return False
                if not transport.unsent and not self.library.blocked:
                    try:
                        transport.send(data)
                        if on_written is not None:
                            on_written(True)
                        end = transport.queued
                        if transport.sent == end:
                            return True
                        break
                    except Exception as error:
                        raise self.fail(error) from error
                    except BaseException:
                        # If the broker counts a message that this side does not, its confirm would
                        # be taken for that of the next message.
                        self._interrupted()
                        raise
            self._wait_until_clear(deadline)
        if not self._flush(deadline, end):
            self._give_up(end, on_written)
        return True

    def _wait_until_clear(self, deadline: float) -> None:
        if self._transport.unsent:
            if not self._flush(deadline, self._transport.queued):
                raise self._stalled()
        elif not self.wait_for(lambda: not self.library.blocked, deadline):
            raise BrokerBlockedError(
                f"{self.name}: the broker accepts no messages for now (connection.blocked: a "
                "memory or disk alarm), and did not in time; try again later, and check its log"
            )

    def _stalled(self) -> BrokerBlockedError:
        return BrokerBlockedError(
            f"{self.name}: the broker reads nothing for now, and did not in time (a memory or "
            "disk alarm, or overload?); nothing was sent: try again later, and check its log"
        )

    def _give_up(self, end: int, on_written: Callable[[bool], None] | None) -> None:
        """Take back a message that ends with byte `end`: its deadline has passed."""

        def unqueue() -> bool:
            transport = self._transport
            if transport.sent >= end:
                return False
            if not transport.unqueue(end):
                raise TimeoutError("the broker accepted only a part of a frame in time")
            if on_written is not None:
                on_written(False)
            return True

        if self.locked(unqueue):
            raise self._stalled()


def _unexpected(kind: int, channel: int, _payload: bytes) -> None:
    raise not_amqp(f"a frame of type {kind} on channel {channel}, which is not open")


def _nothing() -> None:
    return None
