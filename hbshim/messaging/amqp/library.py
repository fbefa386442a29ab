"""What differs between client libraries: channel 0 of a connection, and field tables.

Everything else is the same: the socket (:mod:`hbshim.adapters.transport`), the threads that wait
for it (:mod:`hbshim.messaging.amqp.stream`), and the channels
(:mod:`hbshim.messaging.amqp.session`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

from hbshim.messaging.amqp.options import AmqpOptions
from hbshim.messaging.hosts import Host
from hbshim.options import Options
from hbshim.protocol.frames import Frame


class Library(Protocol):
    """A client library's part of one connection.

    One thread at a time calls it. It sends frames with the function that it was made with. It may
    raise any error: then the connection is lost.

    Attributes:
        blocked: the broker accepts no messages for now (connection.blocked).
        closed_by: code and text with which the broker closed the connection; None if it did not.
        ended: the connection is closed, by either side.
    """

    blocked: bool
    closed_by: tuple[int, str] | None
    ended: bool

    @property
    def is_open(self) -> bool:
        """Whether the handshake is done, and neither side has asked to close."""
        ...

    @property
    def frame_max(self) -> int:
        """The largest frame, in bytes, as negotiated."""
        ...

    @property
    def heartbeat_timeout(self) -> float:
        """The heartbeat timeout T in seconds, as negotiated; 0: no heartbeats."""
        ...

    def begin(self) -> None:
        """Start the handshake."""
        ...

    def feed(self, frame: Frame) -> None:
        """Handle a frame of channel 0."""
        ...

    def begin_close(self) -> None:
        """Send connection.close."""
        ...

    def encode_table(self, values: Mapping[str, Any], /) -> bytes:
        """Encode a field table, with its length.

        Raises:
            ValueError: AMQP has no type for a value, or a key is too long.
        """
        ...

    def decode_table(self, data: bytes, /) -> dict[str, Any]:
        """Decode a field table, with its length."""
        ...


#: Makes a library's part of a connection from the host, the options, the options of its heartbeats
#: (None: no heartbeats), and the function that sends whole frames.
MakeLibrary: TypeAlias = Callable[
    [Host, AmqpOptions, Options | None, Callable[[bytes], None]],
    Library,
]
