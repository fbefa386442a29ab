"""pika's AMQP state machine for channel 0, without an I/O loop.

``BlockingConnection`` runs an iteration of its loop for each publish, tries to read while it
writes, and does not allow one thread to write while another waits for it. Here pika gets the frames
of channel 0, and what it sends is sent at once. See
:class:`hbshim.messaging.amqp.library.Library`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pika
from pika import spec
from pika.connection import Connection
from pika.data import decode_table, encode_table
from pika.exceptions import (
    ConnectionClosedByBroker,
    ConnectionClosedByClient,
    ShortStringTooLong,
    UnsupportedAMQPFieldException,
)
from pika.frame import decode_frame

from hbshim.adapters.pika.heartbeat import SUPPORTED
from hbshim.adapters.versions import require_version
from hbshim.protocol.frames import Frame, joined


class PikaSession(Connection):  # type: ignore[misc]
    """Channel 0 of one connection.

    Parameters:
        send: sends whole frames.

    Raises:
        UnsupportedVersionError: pika is of a version hbshim does not know.
    """

    def __init__(self, parameters: Any, send: Callable[[bytes], None]) -> None:
        require_version("pika", pika.__version__, SUPPORTED)
        self.closed_by: tuple[int, str] | None = None
        self.ended = False
        self.blocked = False
        self._failure: Exception | None = None
        self._send_bytes = send
        super().__init__(
            parameters, on_open_error_callback=_nothing, internal_connection_workflow=False
        )
        self.add_on_connection_blocked_callback(self._on_blocked)
        self.add_on_connection_unblocked_callback(self._on_unblocked)

    def begin(self) -> None:
        self._on_stream_connected()

    def feed(self, frame: Frame) -> None:
        self._process_frame(decode_frame(joined(frame))[1])
        if self._failure is not None:
            # pika stores what it raises in a callback, and ends the stream with it.
            raise self._failure

    def begin_close(self) -> None:
        self._error = ConnectionClosedByClient(200, "Normal shutdown")
        self._set_connection_state(self.CONNECTION_CLOSING)
        self._on_close_ready()

    @property
    def frame_max(self) -> int:
        return int(self.params.frame_max)

    @property
    def heartbeat_timeout(self) -> float:
        return float(self.params.heartbeat or 0)

    def _on_blocked(self, _connection: Any, _frame: Any) -> None:
        self.blocked = True

    def _on_unblocked(self, _connection: Any, _frame: Any) -> None:
        self.blocked = False

    # -- hooks of pika's adapters ---------------------------------------------

    def _terminate_stream(self, error: Exception | None) -> None:
        if isinstance(error, ConnectionClosedByBroker):
            self.closed_by = (error.reply_code, error.reply_text)
        elif not isinstance(error, ConnectionClosedByClient):
            self._failure = error
        super()._terminate_stream(error)

    def _adapter_disconnect_stream(self) -> None:
        self.ended = True

    def _create_heartbeat_checker(self) -> None:
        """Make no checker: the transport's link sends the heartbeats."""

    def _output_marshaled_frames(self, marshaled_frames: Sequence[bytes]) -> None:
        self._send_bytes(b"".join(marshaled_frames))

    def _adapter_emit_data(self, data: bytes) -> None:
        self._send_bytes(data)

    def _adapter_connect_stream(self) -> None:
        raise NotImplementedError("the socket is connected before")

    def _adapter_call_later(self, delay: float, callback: Callable[[], Any]) -> object:
        raise NotImplementedError("no timer of pika's is in use: no blocked_connection_timeout")

    def _adapter_remove_timeout(self, timeout_id: object) -> None:
        raise NotImplementedError("no timer of pika's is in use: no blocked_connection_timeout")

    def _adapter_add_callback_threadsafe(self, callback: Callable[..., Any]) -> None:
        raise NotImplementedError("the owner's lock lets any thread call")

    @staticmethod
    def encode_table(values: Mapping[str, Any]) -> bytes:
        pieces: list[bytes] = []
        try:
            encode_table(pieces, values)
        except (ShortStringTooLong, UnsupportedAMQPFieldException, struct.error) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        return b"".join(pieces)

    @staticmethod
    def decode_table(data: bytes) -> dict[str, Any]:
        table: dict[str, Any] = decode_table(data, 0)[0]
        return table


def parameters(
    host: str,
    port: int,
    virtual_host: str,
    credentials: tuple[str, str] | None,
    *,
    channel_max: int,
    frame_max: int,
    heartbeat: int | None,
    client_properties: dict[str, Any],
) -> Any:
    """Return what pika is to ask the broker for.

    Parameters:
        credentials: user and password; None: EXTERNAL, by the certificate of TLS.
        heartbeat: None takes the broker's; 0: none.
    """
    if credentials is None:
        how = pika.credentials.ExternalCredentials()
    else:
        how = pika.PlainCredentials(*credentials, erase_on_connect=True)
    return pika.ConnectionParameters(
        host=host,
        port=port,
        virtual_host=virtual_host,
        credentials=how,
        # Zero means no limit in AMQP; pika uses its own maximum.
        channel_max=channel_max or pika.channel.MAX_CHANNELS,
        frame_max=min(frame_max, spec.FRAME_MAX_SIZE),
        heartbeat=heartbeat,
        client_properties=client_properties,
    )


def _nothing(*_arguments: Any) -> None:
    return None
