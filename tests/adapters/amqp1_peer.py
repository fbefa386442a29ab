"""A peer of AMQP 1.0 that opens, sends and closes as a test wants, and keeps what it received.

Written byte by byte, so that neither hbshim nor proton is at both ends.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

HEADER = b"AMQP\x00\x01\x00\x00"
EMPTY_FRAME = bytes.fromhex("00000008 02 00 0000")
#: A list without fields, as the value of Close.
CLOSE = bytes.fromhex("0000000c 02 00 0000 00 53 18 45")


def open_frame(idle_time_out: int | None) -> bytes:
    """Open, with the container-id "peer" and an idle-time-out in milliseconds."""
    null = b"\x40"
    fields = [b"\xa1\x04peer", null, null, null]
    if idle_time_out is not None:
        fields.append(b"\x70" + idle_time_out.to_bytes(4, "big"))
    items = b"".join(fields)
    counted = bytes([len(fields)]) + items
    body = b"\x00\x53\x10\xc0" + bytes([len(counted)]) + counted
    return (8 + len(body)).to_bytes(4, "big") + b"\x02\x00\x00\x00" + body


def split(data: bytes) -> tuple[list[bytes], bytes]:
    """The protocol headers and whole frames in `data`, and the rest."""
    found = []
    while len(data) >= 8:
        size = 8 if data.startswith(b"AMQP") else int.from_bytes(data[:4], "big")
        assert size >= 8, data[:8]
        if len(data) < size:
            break
        found.append(data[:size])
        data = data[size:]
    return found, data


def is_kind(frame: bytes, performative: int) -> bool:
    """Whether it is a frame with this performative."""
    return frame[8:11] == bytes([0x00, 0x53, performative])


def has_closed(client: Any) -> bool:
    """Whether the peer of a client's socket has sent Close, which the client has not read."""
    with contextlib.suppress(BlockingIOError):
        waiting: bytes = client.recv(65536, socket.MSG_PEEK)
        return not waiting or any(is_kind(frame, 0x18) for frame in split(waiting)[0])
    return False


#: Seconds after which it looks whether it is to end.
_LONGEST_WAIT = 0.25


class Peer:
    """Serves connections, one after the other, without a SASL layer.

    Parameters:
        idle_time_out: what it advertises, in milliseconds; None: nothing.
        closes: whether it closes a connection on which nothing arrives for twice that time.
        every: seconds between its empty frames; None: it sends none.

    Attributes:
        received: of the latest connection.
        closed_after: seconds of silence after which it has closed one.
        connection: the latest one.
    """

    def __init__(
        self,
        idle_time_out: int | None = 500,
        *,
        closes: bool = True,
        every: float | None = None,
    ) -> None:
        self.idle_time_out = idle_time_out
        self.limit = 2 * idle_time_out / 1000 if closes and idle_time_out else None
        self.every = every
        self.received = b""
        self.opened = 0
        self.closed_after: float | None = None
        self.connection: socket.socket | None = None
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(_LONGEST_WAIT)
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"amqp://127.0.0.1:{self._server.getsockname()[1]}"

    @property
    def heartbeats(self) -> int:
        """How many empty frames it has received on the latest connection."""
        return split(self.received)[0].count(EMPTY_FRAME)

    def end(self) -> None:
        self._ended = True
        self._thread.join(10)
        self._server.close()

    def _run(self) -> None:
        while not self._ended:
            with contextlib.suppress(TimeoutError, OSError):
                connection, _ = self._server.accept()
                with connection:
                    self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        self.received, self.connection = b"", connection
        heard = sent = time.monotonic()
        answered = 0
        while not self._ended:
            now = time.monotonic()
            # Not more often than necessary: a test may fork in C when all threads are at rest.
            due = [
                *([] if self.limit is None else [heard + self.limit]),
                *([] if self.every is None else [sent + self.every]),
            ]
            connection.settimeout(max(0.001, min([_LONGEST_WAIT, *(at - now for at in due)])))
            try:
                data = connection.recv(65536)
                if not data:
                    return
                self.received += data
                heard = time.monotonic()
            except TimeoutError:
                now = time.monotonic()
                if self.limit is not None and now - heard > self.limit:
                    self.closed_after = now - heard
                    connection.sendall(CLOSE)
                    return
            frames, _ = split(self.received)
            for frame in frames[answered:]:
                self._answer(connection, frame)
            answered = len(frames)
            if self.every is not None and now - sent > self.every:
                connection.sendall(EMPTY_FRAME)
                sent = now

    def _answer(self, connection: socket.socket, frame: bytes) -> None:
        if frame == HEADER:
            connection.sendall(HEADER)
        elif is_kind(frame, 0x10):
            connection.sendall(open_frame(self.idle_time_out))
            self.opened += 1
        elif is_kind(frame, 0x18):
            connection.sendall(CLOSE)


@contextlib.contextmanager
def serving(peer: Peer) -> Iterator[Peer]:
    """End `peer` with the context."""
    try:
        yield peer
    finally:
        peer.end()
