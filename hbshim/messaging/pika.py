"""One AMQP connection over pika: :class:`hbshim.messaging.amqp.connection.Connection`.

Every touch of pika's state is made under one lock of the program's own kind, which nobody
holds while he waits. One thread at a time waits for the socket to become readable; others
that wait for something of the broker's are told when he has read.

Two channels at most. What the broker refuses it answers by closing the channel, and the
consumers on it are gone; so whatever asks for queues and exchanges goes over the one that
has none, and has confirms.

Longer than others: the protocol has as many methods.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pika
from pika import spec
from pika.exceptions import (
    AMQPError,
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    ConnectionClosedByClient,
    ShortStringTooLong,
    UnsupportedAMQPFieldException,
)

from hbshim.adapters.pika_stream import StreamConnection
from hbshim.errors import (
    BrokerBlockedError,
    ConfirmTimeoutError,
    ConnectError,
    ConnectionLostError,
    PayloadError,
    RejectedError,
    UnroutableError,
)
from hbshim.heartbeat import service
from hbshim.messaging.amqp.connection import DIRECT_REPLY, Delivery, Message, OnDelivery, Queue
from hbshim.messaging.amqp.dialing import dial
from hbshim.messaging.amqp.readiness import Readiness, wait_writable
from hbshim.messaging.amqp.refusals import (
    NOT_FOUND,
    RESOURCE_LOCKED,
    TopologyRefusedError,
    connection_name,
    login_refused,
    topology_refused,
)
from hbshim.messaging.hosts import Host
from hbshim.messaging.options import MessagingOptions

#: Seconds that the broker may take to answer a method.
METHOD_TIMEOUT = 10.0

#: Seconds that it may take to answer connection.close.
_CLOSE_TIMEOUT = 0.5

#: Seconds between two looks whether the socket takes what waits to be sent.
_SLICE = 0.05

_NEVER = float("inf")


def connect(host: Host, options: MessagingOptions, timeout: float) -> PikaConnection:
    """Open a connection to one host.

    Parameters:
        timeout: seconds for all of it.

    Raises:
        ConnectError: it did not let us in; `final` for credentials and virtual hosts.
        OptionError: a file that the options name for TLS cannot be used.
        WorkerError: the heartbeat worker asked for cannot run in this process.
    """
    return PikaConnection(host, options, timeout)


class _Confirm:
    """A message whose confirm is awaited."""

    __slots__ = ("message", "rejected", "returned", "settled")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.settled = self.rejected = False
        self.returned: str | None = None


class _Channel:
    """A channel of pika's, and why it was closed.

    Attributes:
        selected: confirms were asked for; the answer, once it is there.
    """

    def __init__(self, inner: Any, on_closed: Callable[[_Channel], None]) -> None:
        self.inner = inner
        self._reason: Exception | None = None
        self.selected: list[Any] | None = None
        self._on_closed = on_closed
        inner.add_on_close_callback(self._closed)

    def _closed(self, _channel: Any, reason: Exception) -> None:
        self._reason = reason
        self._on_closed(self)

    @property
    def settled(self) -> bool:
        """Whether it is open, or closed again."""
        return self._reason is not None or bool(self.inner.is_open)

    @property
    def gone(self) -> bool:
        """Whether it is closed."""
        return self._reason is not None

    def reason(self) -> Exception | None:
        """Why it is closed; None while it is not."""
        return self._reason


class PikaConnection:
    """See :class:`hbshim.messaging.amqp.connection.Connection`; made by :func:`connect`."""

    def __init__(self, host: Host, options: MessagingOptions, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        self.name = host.name
        self.blocked = False
        self._pid = os.getpid()
        # Of the program's own kind, and re-entrant: pika calls back while it is called.
        self._lock = threading.RLock()
        self._news = threading.Condition(self._lock)
        self._reading = self._flushing = False
        # For the next `drain`: what to call, with what.
        self._arrived: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._consumers: dict[str, Callable[[], None] | None] = {}
        self._plain: _Channel | None = None
        self._asking: _Channel | None = None
        # Tags begin anew with a new channel; ours go on, so that an old one is known as such.
        self._tag_base = self._last_tag = 0
        self._confirms: dict[int, _Confirm] = {}
        self._published = 0
        heartbeats = options.heartbeat_options()
        self._sock = dial(host, options, deadline)
        self._readiness = Readiness(self._sock.fileno())
        try:
            self._stream = StreamConnection(
                _parameters(host, options), self._sock, heartbeats, self._ended, self._abandon
            )
        except BaseException:
            self._readiness.close(self._sock.close)
            raise
        self._stream.add_on_connection_blocked_callback(self._on_blocked)
        self._stream.add_on_connection_unblocked_callback(self._on_unblocked)
        try:
            with self._lock:
                self._shake_hands(host, options, deadline)
            self._plain_channel(deadline)
        except BaseException as error:
            self._drop(error if isinstance(error, Exception) else ConnectError("interrupted"))
            raise

    def _shake_hands(self, host: Host, options: MessagingOptions, deadline: float) -> None:
        stream = self._stream
        try:
            stream.begin()
            while not stream.is_open and stream.reason is None:
                left = min(options.socket_timeout, deadline - time.monotonic())
                if left <= 0 or not self._readiness.wait(left):
                    raise ConnectError(f"{host.name}: the broker does not answer the handshake")
                stream.receive()
        except (AMQPError, OSError) as error:
            stream.fail(error)
        reason = stream.reason
        if isinstance(reason, ConnectionClosedByBroker):
            raise login_refused(
                host.name, host.username, host.virtual_host, reason.reply_code, reason.reply_text
            )
        if reason is not None:
            raise ConnectError(f"{host.name}: {_text(reason)}; does it speak AMQP 0-9-1?")

    # -- state ---------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return bool(self._stream.is_open) and os.getpid() == self._pid

    def _check(self) -> None:
        if os.getpid() != self._pid:
            # Before the lock: whoever held it at the fork is not here.
            raise ConnectionLostError(
                f"{self.name}: this connection was opened before a fork and belongs to the "
                "parent process; open a new one in the child"
            )
        if not self._stream.is_open:
            raise self._lost()

    def _lost(self) -> ConnectionLostError:
        reason = self._stream.reason
        if reason is None or isinstance(reason, ConnectionClosedByClient):
            return ConnectionLostError(f"{self.name}: the connection is closed; open a new one")
        return ConnectionLostError(f"{self.name}: {_text(reason)}")

    @contextmanager
    def _state(self) -> Iterator[None]:
        """Touch pika's state; its errors become ours, and end the connection."""
        self._check()
        with self._lock:
            try:
                yield
            except (ShortStringTooLong, UnsupportedAMQPFieldException) as error:
                raise PayloadError(
                    f"AMQP has no form for this name or header ({_text(error)}); "
                    "names have 255 bytes at most"
                ) from error
            except (AMQPError, OSError) as error:
                self._stream.fail(error)
                raise self._lost() from error

    def _ended(self) -> None:
        self.blocked = False
        self._readiness.close(self._sock.close)
        self._news.notify_all()

    def _on_blocked(self, _connection: Any, _frame: Any) -> None:
        self.blocked = True

    def _on_unblocked(self, _connection: Any, _frame: Any) -> None:
        self.blocked = False

    # -- waiting -------------------------------------------------------------

    def _receive(self, timeout: float) -> None:
        """Take in what is there, or comes within `timeout`; or have another thread do so."""
        with self._state():
            if self._reading:
                self._news.wait(timeout)
                return
            self._reading = True
            if self._stream.unsent:
                self._stream.flush()
                timeout = min(timeout, _SLICE) if self._stream.unsent else timeout
        try:
            readable = self._stream.unread or self._readiness.wait(timeout)
            if readable:
                with self._state():
                    self._stream.receive()
        finally:
            with self._lock:
                self._reading = False
                self._news.notify_all()

    def _await(self, condition: Callable[[], Any], deadline: float) -> bool:
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._receive(left)
        return True

    def _flush(self, deadline: float, goal: int) -> bool:
        """Wait until `goal` octets are sent; one thread at a time waits for the socket."""
        while True:
            with self._state():
                self._stream.flush()
                if self._stream.sent >= goal:
                    return True
                if not self._reading:
                    self._stream.receive()
                left = min(_SLICE, deadline - time.monotonic())
                if left <= 0:
                    return False
                if self._flushing:
                    self._news.wait(left)
                    continue
                self._flushing = True
            try:
                wait_writable(self._sock.fileno(), left)
            except (OSError, ValueError):
                pass  # closed meanwhile: the next turn says so
            finally:
                with self._lock:
                    self._flushing = False
                    self._news.notify_all()

    # -- channels ------------------------------------------------------------

    def _plain_channel(self, deadline: float) -> _Channel:
        channel = self._plain
        if channel is None:
            with self._state():
                if self._plain is None:
                    self._plain = self._open_channel(self._on_plain_closed)
                    self._tag_base = self._last_tag
                channel = self._plain
        return self._opened(channel, deadline)

    def _asking_channel(self, deadline: float) -> _Channel:
        channel = self._asking
        if channel is None:
            with self._state():
                if self._asking is None:
                    self._asking = self._open_channel(self._on_asking_closed)
                    self._published = 0
                channel = self._asking
        return self._opened(channel, deadline)

    def _open_channel(self, on_closed: Callable[[_Channel], None]) -> _Channel:
        inner = self._stream.channel(on_open_callback=_ignore)
        inner.add_on_cancel_callback(self._on_cancel)
        inner.add_on_return_callback(self._on_return)
        return _Channel(inner, on_closed)

    def _opened(self, channel: _Channel, deadline: float) -> _Channel:
        if not channel.inner.is_open and not self._await(lambda: channel.settled, deadline):
            raise BrokerBlockedError(
                f"{self.name}: the broker did not open a channel in time; "
                "it may be short of memory or disk: see its log"
            )
        return channel

    def _on_plain_closed(self, channel: _Channel) -> None:
        self._plain = None
        consumers, self._consumers = self._consumers, {}
        if not self._stream.ended:
            self._record(channel)
            for on_cancelled in consumers.values():
                self._tell_cancelled(on_cancelled)

    def _on_asking_closed(self, _channel: _Channel) -> None:
        self._asking = None
        self._confirms.clear()

    def _record(self, channel: _Channel) -> None:
        service.current().metrics.record("channel-closed", self.name, _text(channel.reason()))

    def _ask(
        self,
        doing: str,
        ask: Callable[[Any, Callable[[Any], None]], object],
        channel: _Channel | None = None,
    ) -> Any:
        """Ask the broker for something, and wait for the answer; `doing` is for errors."""
        deadline = time.monotonic() + METHOD_TIMEOUT
        channel = channel or self._asking_channel(deadline)
        answers: list[Any] = []
        with self._state():
            if not channel.gone:
                ask(channel.inner, answers.append)
        self._await(lambda: answers or channel.gone, deadline)
        if answers:
            return answers[0].method
        reason = channel.reason()
        if isinstance(reason, ChannelClosedByBroker):
            raise topology_refused(doing, reason.reply_code, reason.reply_text)
        self._check()
        lost = ConnectionLostError(
            f"{self.name}: the broker did not answer in time when it was to {doing}; "
            "the connection was closed, open a new one"
        )
        self._drop(lost)
        raise lost

    # -- publishing ----------------------------------------------------------

    def publish(self, message: Message, timeout: float | None = None) -> None:
        deadline = _NEVER if timeout is None else time.monotonic() + timeout
        while not self._published_on(self._plain_channel(deadline), message, deadline):
            pass  # that channel was closed meanwhile; on a new one

    def _published_on(
        self, channel: _Channel, message: Message, deadline: float, confirm: _Confirm | None = None
    ) -> bool:
        """Write a message; False, and nothing is written, when the channel is closed."""
        properties = _properties(message)
        while (end := self._write(channel, message, properties, confirm)) is None:
            if channel.gone:
                return False
            self._wait_until_clear(deadline)
        if self._stream.unsent and not self._flush(deadline, end):
            self._give_up(end, confirm)
        return True

    def _write(
        self, channel: _Channel, message: Message, properties: Any, confirm: _Confirm | None
    ) -> int | None:
        """Hand a message to the socket, unless it has to wait.

        Returns:
            The octets that were to be sent when it is out; None when it has to wait.
        """
        stream = self._stream
        with self._state():
            # Whatever the broker has to say against it; but whoever waits for that finds it.
            if not self._reading and not stream.nothing_waits():
                stream.receive()
            if channel.gone or self.blocked or stream.unsent:
                return None
            channel.inner.basic_publish(
                message.exchange,
                message.routing_key,
                message.body,
                properties,
                confirm is not None,
            )
            if confirm is not None:
                self._published += 1
                self._confirms[self._published] = confirm
            return stream.queued

    def _wait_until_clear(self, deadline: float) -> None:
        if self._stream.unsent:
            clear = self._flush(deadline, self._stream.queued)
        else:
            clear = self._await(lambda: not self.blocked, deadline)
        if not clear:
            raise BrokerBlockedError(
                f"{self.name}: the broker accepts no messages for now (a memory or disk alarm, "
                "or it is overloaded), and did not in time; try again later, and see its log"
            )

    def _give_up(self, end: int, confirm: _Confirm | None) -> None:
        """A message that was to be the `end` of what is sent could not be, in time."""
        with self._state():
            if self._stream.sent >= end:
                return
            if self._stream.withdraw(end):
                if confirm is not None:
                    del self._confirms[self._published]
                    self._published -= 1
                raise BrokerBlockedError(
                    f"{self.name}: the broker reads nothing for now, and did not in time; "
                    "try again later, and see its log"
                )
        error = ConnectionLostError(
            f"{self.name}: the broker stopped reading in the middle of a message; "
            "the connection was closed, open a new one"
        )
        self._drop(error)
        raise error

    def publish_confirmed(self, message: Message, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        confirm = _Confirm(message)
        channel = self._confirming_channel(deadline)
        while not self._published_on(channel, message, deadline, confirm):
            channel = self._confirming_channel(deadline)
        there = f"exchange {message.exchange!r}, routing key {message.routing_key!r}"
        if not self._await(lambda: confirm.settled or channel.gone, deadline):
            raise ConfirmTimeoutError(
                f"{self.name}: the broker did not confirm a message to {there} within "
                f"{timeout:g} s; it may or may not have been stored"
            )
        if confirm.returned is not None:
            raise UnroutableError(
                f"{self.name}: no queue would get a message to {there} ({confirm.returned}); "
                "declare and bind one"
            )
        if confirm.rejected:
            raise RejectedError(
                f"{self.name}: the broker refused a message to {there} (basic.nack); "
                "its queue may be full"
            )
        if not confirm.settled:
            self._check()
            raise topology_refused(f"take a message to {there}", *_code_and_text(channel.reason()))

    def _confirming_channel(self, deadline: float) -> _Channel:
        channel = self._asking_channel(deadline)
        if channel.selected is None:
            with self._state():
                channel.selected = []
                channel.inner.confirm_delivery(self._on_confirm, channel.selected.append)
        if not channel.selected and not self._await(
            lambda: channel.selected or channel.gone, deadline
        ):
            raise BrokerBlockedError(f"{self.name}: the broker does not answer; see its log")
        return channel

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        tags = [method.delivery_tag]
        if method.multiple:
            tags = [tag for tag in self._confirms if tag <= method.delivery_tag]
        for tag in tags:
            confirm = self._confirms.pop(tag, None)
            if confirm is not None:
                confirm.rejected = isinstance(method, spec.Basic.Nack)
                confirm.settled = True

    def _on_return(self, _channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        # Before its confirm, and without its tag. Of two that are alike, both find no queue.
        for confirm in self._confirms.values():
            message = confirm.message
            if (
                confirm.returned is None
                and message.exchange == method.exchange
                and message.routing_key == method.routing_key
                and message.body == body
            ):
                confirm.returned = f"{method.reply_text}, {method.reply_code}"
                return

    # -- exchanges and queues ------------------------------------------------

    def declare_exchange(self, name: str, kind: str) -> None:
        def ask(channel: Any, answer: Callable[[Any], None]) -> None:
            channel.exchange_declare(name, kind, durable=True, callback=answer)

        self._ask(f"declare the {kind} exchange {name!r}", ask)

    def declare_queue(self, queue: Queue) -> None:
        def ask(channel: Any, answer: Callable[[Any], None]) -> None:
            channel.queue_declare(
                queue.name,
                durable=not queue.exclusive,
                exclusive=queue.exclusive,
                arguments=queue.declaration(),
                callback=answer,
            )

        self._ask(f"declare the queue {queue.name!r}", ask)

    def queue_exists(self, name: str) -> bool:
        def ask(channel: Any, answer: Callable[[Any], None]) -> None:
            channel.queue_declare(name, passive=True, callback=answer)

        try:
            self._ask(f"find the queue {name!r}", ask)
        except TopologyRefusedError as refused:
            if refused.code == NOT_FOUND:
                return False
            if refused.code != RESOURCE_LOCKED:
                raise
        return True

    def bind(self, queue: str, exchange: str, routing_key: str) -> None:
        def ask(channel: Any, answer: Callable[[Any], None]) -> None:
            channel.queue_bind(queue, exchange, routing_key, callback=answer)

        self._ask(f"bind the queue {queue!r} to the exchange {exchange!r}", ask)

    def delete_queue(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        def ask(channel: Any, answer: Callable[[Any], None]) -> None:
            channel.queue_delete(name, if_unused, if_empty, callback=answer)

        return int(self._ask(f"delete the queue {name!r}", ask).message_count)

    # -- consuming -----------------------------------------------------------

    def set_prefetch(self, count: int) -> None:
        def ask(channel: Any, answer: Callable[[Any], None]) -> None:
            channel.basic_qos(prefetch_count=count, callback=answer)

        self._ask(f"set the prefetch count to {count}", ask, self._plain_channel(_soon()))

    def consume(
        self,
        queue: str,
        on_delivery: OnDelivery,
        *,
        acknowledged: bool = True,
        priority: int = 0,
        on_cancelled: Callable[[], None] | None = None,
    ) -> str:
        doing = f"consume from the queue {queue!r}"
        if self._consumers and queue != DIRECT_REPLY:
            # A refusal would end the other consumers of the channel, too.
            self._ask(
                doing,
                lambda channel, answer: channel.queue_declare(queue, passive=True, callback=answer),
            )

        def arrived(_channel: Any, method: Any, properties: Any, body: bytes) -> None:
            self._arrived.append((on_delivery, self._delivery(method, properties, body)))

        def answered(answer: Callable[[Any], None], frame: Any) -> None:
            self._consumers[frame.method.consumer_tag] = on_cancelled
            answer(frame)

        def ask(channel: Any, answer: Callable[[Any], None]) -> None:
            channel.basic_consume(
                queue,
                arrived,
                auto_ack=not acknowledged,
                arguments={"x-priority": priority} if priority else None,
                callback=functools.partial(answered, answer),
            )

        return str(self._ask(doing, ask, self._plain_channel(_soon())).consumer_tag)

    def _delivery(self, method: Any, properties: Any, body: bytes) -> Delivery:
        self._last_tag = self._tag_base + method.delivery_tag
        expiration = properties.expiration
        return Delivery(
            self,
            self._last_tag,
            body,
            method.routing_key,
            method.redelivered,
            properties.content_type,
            properties.message_id,
            properties.correlation_id,
            properties.reply_to,
            None if expiration is None else int(expiration) / 1000,
            properties.type,
            properties.headers or {},
        )

    def cancel(self, consumer_tag: str) -> None:
        if self._consumers.pop(consumer_tag, _ignore) is _ignore:
            return

        def ask(channel: Any, answer: Callable[[Any], None]) -> None:
            channel.basic_cancel(consumer_tag, callback=answer)

        self._ask("cancel a consumer", ask, self._plain_channel(_soon()))

    def _on_cancel(self, frame: Any) -> None:
        self._tell_cancelled(self._consumers.pop(frame.method.consumer_tag, None))

    def _tell_cancelled(self, on_cancelled: Callable[[], None] | None) -> None:
        if on_cancelled is not None:
            self._arrived.append((_call, on_cancelled))

    def acknowledge(self, tag: int) -> None:
        with self._state():
            if self._plain is not None and tag > self._tag_base:
                self._plain.inner.basic_ack(tag - self._tag_base)

    def requeue(self, tag: int) -> None:
        with self._state():
            if self._plain is not None and tag > self._tag_base:
                self._plain.inner.basic_nack(tag - self._tag_base)

    def drain(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        looked = False
        while not self._arrived and not self._readiness.take_wake():
            left = deadline - time.monotonic()
            if looked and left <= 0:
                return
            try:
                self._receive(max(0.0, left))
            except ConnectionLostError:
                if not self._arrived:
                    raise
            looked = True
        for _ in range(len(self._arrived)):
            call, argument = self._arrived.popleft()
            call(argument)

    def wake(self) -> None:
        self._readiness.wake()

    # -- the end -------------------------------------------------------------

    def close(self) -> None:
        if os.getpid() != self._pid:
            self._abandon()
            return
        deadline = time.monotonic() + _CLOSE_TIMEOUT
        with self._lock:
            if self._stream.is_open and not self._stream.unsent:
                try:
                    self._stream.begin_close()
                except (AMQPError, OSError) as error:
                    self._stream.fail(error)
        self._await_end(deadline)
        self._drop(ConnectionLostError("closed"))

    def _await_end(self, deadline: float) -> None:
        stream = self._stream
        while not stream.ended and (left := deadline - time.monotonic()) > 0:
            with self._lock:
                if self._reading:
                    self._news.wait(left)
                    continue
                self._reading = True
            try:
                readable = self._readiness.wait(left)
            finally:
                with self._lock:
                    self._reading = False
            with self._lock:
                try:
                    if readable:
                        stream.receive()
                except (AMQPError, OSError) as error:
                    stream.fail(error)

    def _drop(self, error: Exception) -> None:
        with self._lock:
            self._stream.fail(error)

    def _abandon(self) -> None:
        """In a forked child: let go of what is the parent's, without a lock and a word."""
        self._readiness.drop()
        self._sock.close()


def _parameters(host: Host, options: MessagingOptions) -> Any:
    return pika.ConnectionParameters(
        host=host.hostname,
        port=host.port,
        virtual_host=host.virtual_host,
        credentials=pika.PlainCredentials(host.username, host.password, erase_on_connect=True),
        # Zero means no limit of ours in AMQP; pika takes its own greatest for it.
        channel_max=options.channel_max or pika.channel.MAX_CHANNELS,
        frame_max=min(options.frame_max, spec.FRAME_MAX_SIZE),
        # None takes the broker's.
        heartbeat=options.heartbeat_interval or None,
        client_properties={"connection_name": connection_name("pika")},
    )


def _properties(message: Message) -> Any:
    return spec.BasicProperties(
        content_type=message.content_type,
        headers=message.headers,
        delivery_mode=message.delivery_mode,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        expiration=message.expiration_text(),
        message_id=message.message_id,
        type=message.type,
    )


def _soon() -> float:
    return time.monotonic() + METHOD_TIMEOUT


def _code_and_text(reason: Exception | None) -> tuple[int, str]:
    if isinstance(reason, ChannelClosedByBroker):
        return reason.reply_code, reason.reply_text
    return 0, _text(reason)


def _text(error: BaseException | None) -> str:
    if isinstance(error, ConnectionClosedByBroker | ChannelClosedByBroker):
        return f"closed by the broker: {error.reply_text} ({error.reply_code})"
    return str(error) or type(error).__name__


def _call(function: Callable[[], None]) -> None:
    function()


def _ignore(*_arguments: Any) -> None:
    return None
