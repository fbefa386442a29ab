"""py-amqp's connection and channel, for a program whose threads share them.

One thread reads, any thread writes. Whatever asks the broker for an answer has a limit; a
channel that the broker closes may be replaced in the same breath, so that no other thread
finds it gone; frames of two threads never mix.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from amqp import spec
from amqp.method_framing import frame_writer
from amqp.serialization import loads
from kombu.transport import pyamqp

from hbshim.adapters.kombu import heartbeat as kombu_adapter
from hbshim.adapters.pyamqp import transport as amqp_stream
from hbshim.adapters.pyamqp.transport import Frame, Waiting
from hbshim.heartbeat.link import Link
from hbshim.protocol.decode import DeliveryDecoder


class NoAnswerError(Exception):
    """The broker did not answer in time."""


def _locked_frame_writer(connection: Any, transport: Any) -> Callable[..., None]:
    """py-amqp's frame writer, one thread at a time; older ones have no lock of their own."""
    write, lock = frame_writer(connection, transport), connection.write_lock

    def write_frame(*args: Any) -> None:
        with lock:
            write(*args)

    return write_frame


class Channel(pyamqp.Channel):  # type: ignore[misc]
    """A channel that stays closed once the broker closed it.

    Parameters:
        on_closed: called when the broker closes it, before anybody else may write.

    Attributes:
        closed_by: the broker's reason: code and text.
        intake: what consumers get, who are called with it as
            :class:`hbshim.protocol.messages.Delivery`; and confirms, where somebody wants them.
    """

    def __init__(self, connection: Connection, on_closed: Callable[[], None]) -> None:
        super().__init__(connection)
        # Bodies are octets, whatever their properties say.
        self.auto_decode = False
        self.closed_by: tuple[int, str] | None = None
        self._on_closed_by_broker = on_closed
        self._on_cancel_oks: dict[str, Callable[[], None]] = {}
        self.intake = DeliveryDecoder(self.callbacks.get, table_of)

    def open_without_waiting(self) -> None:
        """Ask the broker to open the channel, and use it at once: it takes things in turn."""
        self.send_method(spec.Channel.Open, "s", ("",))

    def set_prefetch_without_waiting(self, count: int) -> None:
        """basic.qos for the consumers that are started from now on."""
        self.send_method(spec.Basic.Qos, "lBb", (0, count, False))

    def cancel_without_waiting(self, consumer_tag: str, on_cancel_ok: Callable[[], None]) -> None:
        """basic.cancel; what comes until the broker's answer still finds its callback."""
        self._on_cancel_oks[consumer_tag] = on_cancel_ok
        self.send_method(spec.Basic.Cancel, "sb", (consumer_tag, False))

    def _setup_listeners(self) -> None:
        super()._setup_listeners()
        self._callbacks[spec.Basic.CancelOk] = self._on_cancel_ok

    def _on_cancel_ok(self, consumer_tag: str) -> None:
        self._remove_tag(consumer_tag)
        on_cancel_ok = self._on_cancel_oks.pop(consumer_tag, None)
        if on_cancel_ok is not None:
            on_cancel_ok()

    def _on_close(self, reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        # Nobody else may write on this number before it stands for a new channel.
        with self.connection.write_lock:
            self.closed_by = (reply_code, reply_text)
            self.send_method(spec.Channel.CloseOk)
            self.collect()
            self._on_closed_by_broker()


class Connection(pyamqp.Connection):  # type: ignore[misc]
    """A connection that one thread reads from and any thread writes to.

    Parameters:
        waiting: opens the socket, and waits for it.
        open_by: ``time.monotonic()`` by which the connection is to be open.
        heartbeats: whether to have heartbeats, which hbshim sends.

    Attributes:
        write_lock: held while octets are written; re-entrant.
        answer_by: until when the reader waits for an answer.
        closed_by: the broker's reason for closing the connection: code and text.
    """

    Channel = Channel
    client_heartbeat: int
    #: Channel 0 is the connection itself, and nothing is consumed there.
    intake: DeliveryDecoder | None = None

    def __init__(
        self, *args: Any, waiting: Waiting, open_by: float, heartbeats: bool, **kwargs: Any
    ) -> None:
        self._heartbeats = heartbeats
        self.write_lock = threading.RLock()
        self.waiting = waiting
        self.answer_by = open_by
        self.closed_by: tuple[int, str] | None = None
        self._frames: deque[Frame] = deque()
        super().__init__(*args, frame_writer=_locked_frame_writer, **kwargs)

    def Transport(self, host: str, *_: Any, **_more: Any) -> Any:  # noqa: N802
        return amqp_stream.Transport(host, self.waiting)

    def _on_tune(
        self, channel_max: int, frame_max: int, server_heartbeat: int, argsig: str = "BlB"
    ) -> None:
        # py-amqp takes what the broker proposes, whatever it was asked for itself; and no
        # heartbeat where nobody asked, which hbshim is going to make.
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
        self.client.transport.closed_by = self.closed_by
        super()._on_close(reply_code, reply_text, class_id, method_id)

    @property
    def stream(self) -> Any:
        """The transport."""
        return self._transport

    @property
    def link(self) -> Link | None:
        """hbshim's link; None where no heartbeat was negotiated."""
        found: Link | None = getattr(self._transport, "hbshim_link", None)
        return found

    def close_without_waiting(self) -> None:
        """Ask the broker to close the connection."""
        self.is_closing = True
        self.send_method(spec.Connection.Close, "BsBB", (0, "", 0, 0))

    def await_close(self) -> None:
        """Wait until the broker has closed the connection, or `answer_by`."""
        self.wait(spec.Connection.CloseOk)

    def drain_events(self, timeout: float | None = None) -> None:
        """Take in one method; what py-amqp calls to wait for an answer.

        Parameters:
            timeout: seconds; `answer_by` holds as well.

        Raises:
            NoAnswerError: none came in time.
        """
        until = self.answer_by
        if timeout is not None:
            until = min(until, time.monotonic() + timeout)
        while not self.take_one():
            left = until - time.monotonic()
            if left <= 0:
                raise NoAnswerError
            self.waiting.readable(left)

    def take_one(self) -> bool:
        """Take in one method, if it is there whole; whether it was.

        Raises:
            Exception: the connection is lost; of py-amqp's, or OSError.
        """
        frames = self._frames
        while True:
            while frames:
                if self._take(frames.popleft()):
                    return True
            frames.extend(self._transport.read_frame())
            if not frames:
                return False

    def _take(self, frame: Frame) -> Any:
        kind, number, payload = frame
        channel = self.channels.get(number)
        if channel is not None:
            intake = channel.intake
            # A delivery is no answer.
            if intake is not None and intake.take(kind, payload):
                return False
        return self._on_inbound_frame(frame)

    def take_all(self, *, look: bool) -> bool:
        """Take in what was read already, and what is there still; whether there was anything.

        Parameters:
            look: ask the socket; else only where it is known to have more.
        """
        frames, on_frame, stream = self._frames, self._take, self._transport
        any_there = False
        while True:
            while frames:
                any_there = True
                on_frame(frames.popleft())
            if not (look or stream.more):
                return any_there
            look = False
            frames.extend(stream.read_frame())


def table_of(data: bytes) -> dict[str, Any]:
    """Decode a table, length and all."""
    values, _ = loads("F", data, 0)
    table: dict[str, Any] = values[0]
    return table


def _smaller(one: int, other: int) -> int:
    # AMQP 0-9-1, connection.tune: zero means no limit.
    return min(one, other) if one and other else one or other


class Transport(kombu_adapter.Transport):
    """hbshim's kombu transport, over connections of this kind."""

    Connection = Connection
    #: What the broker said in place of letting us in: code and text.
    closed_by: tuple[int, str] | None = None
