"""kombu's and py-amqp's AMQP state machine for channel 0, without a socket.

py-amqp waits inside the socket, and for its own timeouts it sets the timeout of a socket to which
another thread may be writing. Here it gets the frames of channel 0, and what it sends is sent at
once. See :class:`hbshim.messaging.amqp.library.Library`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

import amqp
from amqp import spec
from amqp.exceptions import FrameSyntaxError
from amqp.serialization import dumps, loads
from amqp.transport import AMQP_PROTOCOL_HEADER
from kombu.transport import pyamqp

from hbshim.adapters.pyamqp.heartbeat import SUPPORTED
from hbshim.adapters.versions import require_version
from hbshim.protocol.frames import Frame


class _Writer:
    """Replaces the socket to which py-amqp writes."""

    connected = True

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send

    def write(self, data: Any) -> None:
        # py-amqp reuses the buffer for its next frame.
        self._send(bytes(data))

    def close(self) -> None:
        pass


class KombuSession(pyamqp.Connection):  # type: ignore[misc]
    """Channel 0 of one connection.

    Parameters:
        send: sends whole frames.
        heartbeats: whether to have heartbeats, which hbshim sends.

    Raises:
        UnsupportedVersionError: py-amqp is of a version hbshim does not know.
    """

    client_heartbeat: int

    def __init__(
        self, *args: Any, send: Callable[[bytes], None], heartbeats: bool, **kwargs: Any
    ) -> None:
        require_version("amqp", amqp.__version__, SUPPORTED)
        self.closed_by: tuple[int, str] | None = None
        self.ended = False
        self.blocked = False
        self._heartbeats = heartbeats
        self._writer = _Writer(send)
        super().__init__(*args, on_blocked=self._blocked, on_unblocked=self._unblocked, **kwargs)

    def connect(self, callback: Any = None) -> None:
        """Take what kombu calls to open a connection for the point where it can begin."""
        self.transport = self._writer
        self.on_inbound_frame = self.frame_handler_cls(self, self.on_inbound_method)
        self.frame_writer = self.frame_writer_cls(self, self._writer)

    def begin(self) -> None:
        self._writer.write(AMQP_PROTOCOL_HEADER)

    def feed(self, frame: Frame) -> None:
        self.on_inbound_frame(frame)

    def begin_close(self) -> None:
        self.is_closing = True
        self.send_method(spec.Connection.Close, "BsBB", (0, "", 0, 0))

    @property
    def is_open(self) -> bool:
        return bool(self._handshake_complete) and not self.ended and not self.is_closing

    @property
    def heartbeat_timeout(self) -> float:
        return float(self.heartbeat or 0)

    def _blocked(self, _reason: str) -> None:
        self.blocked = True

    def _unblocked(self) -> None:
        self.blocked = False

    def _on_tune(
        self, channel_max: int, frame_max: int, server_heartbeat: int, argsig: str = "BlB"
    ) -> None:
        # py-amqp accepts the broker's value, whatever it requested; and no heartbeat if the
        # application requested none, although hbshim is going to send them.
        asked = self.client_heartbeat or server_heartbeat
        self.client_heartbeat = asked if self._heartbeats else 0
        super()._on_tune(
            _smaller(channel_max, self.channel_max),
            _smaller(frame_max, self.frame_max),
            server_heartbeat,
            argsig,
        )

    def _on_close(self, reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        self.closed_by = (reply_code, reply_text)
        self._x_close_ok()

    def _on_close_ok(self) -> None:
        self.ended = True

    @staticmethod
    def encode_table(values: Mapping[str, Any]) -> bytes:
        try:
            encoded: bytes = dumps("F", [values])
        except (FrameSyntaxError, struct.error, OverflowError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        return encoded

    @staticmethod
    def decode_table(data: bytes) -> dict[str, Any]:
        values, _ = loads("F", data, 0)
        table: dict[str, Any] = values[0]
        return table


def _smaller(one: int, other: int) -> int:
    # AMQP 0-9-1, connection.tune: zero means no limit.
    return min(one, other) if one and other else one or other


class Transport(pyamqp.Transport):  # type: ignore[misc]
    """kombu's py-amqp transport, with connections that have no socket."""

    Connection = KombuSession
