"""What differs between client libraries: channel 0 of a connection, and field tables.

All else is the same over each of them: the socket (:mod:`hbshim.adapters.transport`), who waits
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

    One thread at a time is in here. What it has to say, it sends with the function that it was
    made with. It may raise anything: then the connection is lost.

    Attributes:
        blocked: the broker said that it accepts no messages for now (connection.blocked).
        closed_by: why the broker closed the connection: code and text; None where it did not.
        ended: the connection is closed, by whichever side.
    """

    blocked: bool
    closed_by: tuple[int, str] | None
    ended: bool

    @property
    def is_open(self) -> bool:
        """Whether the handshake is done, and no side has asked to close."""
        ...

    @property
    def frame_max(self) -> int:
        """Bytes of a frame at most, as negotiated."""
        ...

    @property
    def heartbeat_timeout(self) -> float:
        """T, in seconds, as negotiated; 0: none."""
        ...

    def begin(self) -> None:
        """Start the handshake."""
        ...

    def feed(self, frame: Frame) -> None:
        """Take a frame of channel 0."""
        ...

    def begin_close(self) -> None:
        """Ask the broker to close the connection."""
        ...

    def encode_table(self, values: Mapping[str, Any], /) -> bytes:
        """Encode a field table, length included.

        Raises:
            ValueError: AMQP has no type for a value, or a key is too long.
        """
        ...

    def decode_table(self, data: bytes, /) -> dict[str, Any]:
        """Decode a field table, length included."""
        ...


#: Makes a library's part of a connection, given the host, the options, how its heartbeats are made
#: (None: there are none), and what sends whole frames.
MakeLibrary: TypeAlias = Callable[
    [Host, AmqpOptions, Options | None, Callable[[bytes], None]],
    Library,
]
