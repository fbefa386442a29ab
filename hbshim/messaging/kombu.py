"""The messaging driver's connection over kombu and py-amqp.

One thread reads at a time: whoever drains or waits for an answer, and a publisher for as long
as it takes to look whether the broker said something, when nobody else reads. Everything that
is read is put aside; consumers are called by :meth:`KombuConnection.drain`, outside every lock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import kombu

from hbshim.adapters.amqp import KOMBU_OPTION
from hbshim.adapters.amqp_channel import Channel, NoAnswerError, Transport
from hbshim.adapters.amqp_frames import acknowledgement, publication, rejection
from hbshim.adapters.amqp_stream import StalledError
from hbshim.errors import (
    BrokerBlockedError,
    ConfirmTimeoutError,
    ConnectError,
    ConnectionLostError,
    MessagingError,
    RejectedError,
    TopologyError,
    UnroutableError,
)
from hbshim.heartbeat.state import WATCHED
from hbshim.messaging.amqp.connection import Delivery, Message, OnDelivery, Queue
from hbshim.messaging.amqp.readiness import Readiness, wait_writable
from hbshim.messaging.hosts import Host
from hbshim.messaging.options import MessagingOptions

_T = TypeVar("_T")

#: Seconds that the broker may take to answer a question.
METHOD_TIMEOUT = 10.0
#: Seconds that it may take to say good-bye.
CLOSE_TIMEOUT = 1.0
#: Seconds between two looks of a blocked publisher that somebody else reads for.
_LOOK_EVERY = 0.05
#: RabbitMQ's reply codes: access refused, not found, and not allowed (no such virtual host).
_REFUSED, _NOT_FOUND, _LOCKED, _NOT_ALLOWED = 403, 404, 405, 530
#: Above the broker's own numbers in a delivery's tag: which channel it came on.
_GENERATION = 48
_TAG = (1 << _GENERATION) - 1
_FOREVER = float("inf")
_monotonic = time.monotonic


class _Waiting:
    """How py-amqp waits here; see :class:`hbshim.adapters.amqp_stream.Waiting`."""

    def __init__(self, step: float) -> None:
        #: Seconds for one answer while the connection is being opened.
        self.step = step
        self.readiness: Readiness | None = None

    def opened(self, fd: int) -> None:
        self.readiness = Readiness(fd)

    def readable(self, timeout: float) -> bool:
        return self.readiness is not None and self.readiness.wait(timeout)

    def writable(self, fd: int, timeout: float) -> bool:
        return wait_writable(fd, min(timeout, 60.0))

    def close(self, then: Callable[[], None]) -> None:
        if self.readiness is None:
            then()
        else:
            self.readiness.close(then)


class _Consumer:
    """A consumer, and what is to be called for it."""

    __slots__ = ("on_cancelled", "on_delivery")

    def __init__(self, on_delivery: OnDelivery, on_cancelled: Callable[[], None] | None) -> None:
        self.on_delivery = on_delivery
        self.on_cancelled = on_cancelled


class KombuConnection:
    """One AMQP connection over kombu; see :class:`hbshim.messaging.amqp.connection.Connection`.

    Made by :func:`connect`.

    Parameters:
        connection: of :class:`hbshim.adapters.amqp_channel.Connection`, open.
    """

    def __init__(self, connection: Any, name: str) -> None:
        self._amqp = connection
        self._name = name
        self._pid = os.getpid()
        self._lock: Any = connection.write_lock
        self._stream = connection.stream
        self._write = self._stream.write
        self._readiness: Readiness = connection.waiting.readiness
        link = connection.link
        self._link = link
        self._nothing_waits = link.wire.nothing_waits if link is not None else _never
        self._reading = threading.Lock()
        self._drainers = 0
        self._unblocked = threading.Condition(self._lock)
        self._blocked = False
        connection.on_blocked, connection.on_unblocked = self._on_blocked, self._on_unblocked
        self._closed = False
        self._why: str | None = None
        self._consumers: dict[str, _Consumer] = {}
        self._arrived: deque[Callable[[], None]] = deque()
        self._prefetch: int | None = None
        self._generation = -1
        self._confirming: Any = None
        self._open_plain()

    # -- state ---------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._name

    @property
    def is_open(self) -> bool:
        return (
            not self._closed
            and bool(self._stream.connected)
            and os.getpid() == self._pid
            and (self._link is None or (self._link.state in WATCHED and not self._link.guard.torn))
        )

    @property
    def blocked(self) -> bool:
        return self._blocked

    def _on_blocked(self, _reason: str) -> None:
        self._blocked = True

    def _on_unblocked(self) -> None:
        with self._unblocked:
            self._blocked = False
            self._unblocked.notify_all()

    def _check(self) -> None:
        if os.getpid() != self._pid:
            self._drop_copy()
            raise ConnectionLostError(
                f"the connection to {self._name} was opened before a fork and is the parent "
                "process's; open a new one"
            )
        if self._closed:
            raise ConnectionLostError(
                f"the connection to {self._name} {self._why or 'was closed'}; open a new one"
            )

    def _drop_copy(self) -> None:
        """In a forked child: forget the descriptor, and say nothing on it."""
        if not self._closed:
            self._closed = True
            if self._link is not None:
                self._link.orphan()
            else:
                self._stream.drop()

    def _lost(self, error: BaseException) -> ConnectionLostError:
        if not self._closed:
            told = self._amqp.closed_by
            self._why = (
                f"was closed by the broker ({told[0]} {told[1]})"
                if told
                else f"was lost ({_words(error)})"
            )
            self._closed = True
            self._collect()
        return ConnectionLostError(
            f"the connection to {self._name} {self._why or 'was closed'}; open a new one"
        )

    def _collect(self) -> None:
        with contextlib.suppress(Exception):
            self._amqp.collect()
        self._on_unblocked()

    # -- channels ------------------------------------------------------------

    def _open_plain(self) -> None:
        """A channel for everything but confirms; nobody waits for it."""
        with self._lock:
            self._generation += 1
            self._plain = channel = self._open_channel(self._on_plain_closed)
            if self._prefetch is not None:
                channel.set_prefetch_without_waiting(self._prefetch)

    def _open_channel(self, on_closed: Callable[[], None]) -> Channel:
        channel = Channel(self._amqp)
        channel.auto_decode = False
        channel.on_closed = on_closed
        channel.open_without_waiting()
        return channel

    def _on_plain_closed(self) -> None:
        consumers, self._consumers = self._consumers, {}
        self._open_plain()
        for consumer in consumers.values():
            self._arrived.append(consumer.on_cancelled or self._fail_for_consumer)

    def _fail_for_consumer(self) -> None:
        """A consumer ended, and nobody asked to be told: it must not go unnoticed."""
        raise self._lost(RuntimeError("the broker closed the channel under its consumers"))

    # -- reading -------------------------------------------------------------

    @contextlib.contextmanager
    def _as_reader(self, until: float) -> Iterator[None]:
        if not self._reading.acquire(False) and not self._reading.acquire(
            True, max(0.0, until - _monotonic())
        ):
            raise ConnectionLostError(
                f"another thread reads from the connection to {self._name}; only one may drain "
                "it, or ask the broker for an answer, at a time"
            )
        try:
            yield
        finally:
            self._reading.release()

    def _read_what_is_there(self) -> None:
        try:
            while self._amqp.read_one():
                pass
        except Exception as error:
            raise self._lost(error) from error

    def _ask(self, question: Callable[[], _T], timeout: float = METHOD_TIMEOUT) -> _T:
        """Ask the broker on the plain channel, and wait for the answer."""
        self._check()
        until = _monotonic() + timeout
        with self._as_reader(until):
            self._amqp.answer_by = until
            channel = self._plain
            try:
                return question()
            except NoAnswerError:
                raise self._lost(
                    TimeoutError(f"the broker did not answer within {timeout:g} s")
                ) from None
            except Exception as error:
                if channel.closed_by is not None:
                    raise channel.closed_by from None
                raise self._lost(error) from error

    def _ask_topology(self, question: Callable[[], _T], what: str) -> _T:
        try:
            return self._ask(question)
        except MessagingError:
            raise
        except Exception as error:
            raise _topology_error(error, what) from None

    def drain(self, timeout: float) -> None:
        self._check()
        until = _monotonic() + timeout
        self._drainers += 1
        try:
            with self._as_reader(until + METHOD_TIMEOUT):
                self._check()
                if not self._arrived:
                    self._await_deliveries(until)
        finally:
            self._drainers -= 1
        while self._arrived:
            self._arrived.popleft()()

    def _await_deliveries(self, until: float) -> None:
        readiness = self._readiness
        while True:
            self._read_what_is_there()
            if self._arrived or readiness.take_wake():
                return
            left = until - _monotonic()
            if left <= 0:
                return
            readiness.wait(left)
            self._check()

    def wake(self) -> None:
        if not self._closed and os.getpid() == self._pid:
            self._readiness.wake()

    # -- publishing ----------------------------------------------------------

    def publish(self, message: Message, timeout: float | None = None) -> None:
        self._check()
        until = _FOREVER if timeout is None else _monotonic() + timeout
        self._listen_for_a_moment()
        if self._blocked:
            self._wait_until_unblocked(until)
        self._send(self._frames(self._plain.channel_id, message, False), until)

    def _frames(self, channel_id: int, message: Message, mandatory: bool) -> bytes:
        return publication(
            channel_id,
            self._amqp.frame_max,
            message.exchange,
            message.routing_key,
            message.body,
            content_type=message.content_type,
            headers=message.headers,
            delivery_mode=message.delivery_mode,
            correlation_id=message.correlation_id,
            reply_to=message.reply_to,
            expiration=message.expiration_text(),
            message_id=message.message_id,
            kind=message.type,
            mandatory=mandatory,
        )

    def _listen_for_a_moment(self) -> None:
        """Hear that the broker blocks or closes, where nobody else reads."""
        if self._reading.acquire(False):
            try:
                if not self._nothing_waits():
                    self._read_what_is_there()
            finally:
                self._reading.release()

    def _wait_until_unblocked(self, until: float) -> None:
        while self._blocked:
            left = until - _monotonic()
            if left <= 0:
                raise BrokerBlockedError(
                    f"{self._name} accepts no messages for now (connection.blocked: a memory "
                    "or disk alarm); try again later"
                )
            pause = min(left, _LOOK_EVERY)
            if not self._drainers and self._reading.acquire(False):
                try:
                    self._readiness.wait(pause)
                    self._read_what_is_there()
                finally:
                    self._reading.release()
            else:
                with self._unblocked:
                    if self._blocked:
                        self._unblocked.wait(pause)
            self._check()

    def _send(self, data: bytes, until: float | None) -> None:
        """Write whole frames, or nothing."""
        lock = self._lock
        if not lock.acquire(False) and not self._acquire(until):
            raise self._stalled()
        try:
            self._stream.write_by = until
            self._write(data)
        except StalledError:
            raise self._stalled() from None
        except Exception as error:
            raise self._lost(error) from error
        except BaseException as error:
            if self._link is not None and self._link.guard.torn:
                self._lost(error)
            raise
        finally:
            self._stream.write_by = None
            lock.release()

    def _acquire(self, until: float | None) -> bool:
        if until is None:
            until = _monotonic() + METHOD_TIMEOUT
        left = max(0.0, until - _monotonic())
        return bool(self._lock.acquire(True, left) if left != _FOREVER else self._lock.acquire())

    def _stalled(self) -> BrokerBlockedError:
        return BrokerBlockedError(
            f"{self._name} reads nothing for now, and did not in time; nothing of this was "
            "sent: try again later"
        )

    def publish_confirmed(self, message: Message, timeout: float) -> None:
        self._check()
        until = _monotonic() + timeout
        with self._as_reader(until):
            try:
                confirms = self._confirms(until)
                self._read_what_is_there()
            except NoAnswerError:
                raise self._lost(TimeoutError("the broker did not answer in time")) from None
        if self._blocked:
            self._wait_until_unblocked(until)
        with self._as_reader(until):
            confirms.confirm(message, until)

    def _confirms(self, until: float) -> _Confirms:
        if self._confirming is None:
            self._amqp.answer_by = max(until, _monotonic() + 0.1)
            self._confirming = _Confirms(self)
        confirms: _Confirms = self._confirming
        return confirms

    # -- settling ------------------------------------------------------------

    def acknowledge(self, tag: int) -> None:
        self._check()
        # What came on a channel that is gone has been queued again long since.
        if tag >> _GENERATION == self._generation:
            self._send(acknowledgement(self._plain.channel_id, tag & _TAG), None)

    def requeue(self, tag: int) -> None:
        self._check()
        if tag >> _GENERATION == self._generation:
            self._send(rejection(self._plain.channel_id, tag & _TAG), None)

    # -- topology ------------------------------------------------------------

    def declare_exchange(self, name: str, kind: str) -> None:
        self._ask_topology(
            lambda: self._plain.exchange_declare(name, kind, durable=True, auto_delete=False),
            f"exchange {name!r}",
        )

    def declare_queue(self, queue: Queue) -> None:
        self._ask_topology(
            lambda: self._plain.queue_declare(
                queue.name,
                durable=not queue.exclusive,
                exclusive=queue.exclusive,
                auto_delete=False,
                arguments=queue.declaration(),
            ),
            f"queue {queue.name!r}",
        )

    def queue_exists(self, name: str) -> bool:
        try:
            self._ask(lambda: self._plain.queue_declare(name, passive=True))
        except MessagingError:
            raise
        except Exception as error:
            if getattr(error, "reply_code", None) == _NOT_FOUND:
                return False
            # Another connection's own queue is there, too.
            if getattr(error, "reply_code", None) == _LOCKED:
                return True
            raise _topology_error(error, f"queue {name!r}") from None
        return True

    def bind(self, queue: str, exchange: str, routing_key: str) -> None:
        self._ask_topology(
            lambda: self._plain.queue_bind(queue, exchange, routing_key),
            f"queue {queue!r} and exchange {exchange!r}",
        )

    def delete_queue(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        try:
            return int(
                self._ask(
                    lambda: self._plain.queue_delete(name, if_unused=if_unused, if_empty=if_empty)
                )
                or 0
            )
        except MessagingError:
            raise
        except Exception as error:
            if getattr(error, "reply_code", None) == _NOT_FOUND:
                return 0
            raise _topology_error(error, f"queue {name!r}") from None

    # -- consuming -----------------------------------------------------------

    def set_prefetch(self, count: int) -> None:
        self._prefetch = count
        self._ask(lambda: self._plain.basic_qos(0, count, False))

    def consume(
        self,
        queue: str,
        on_delivery: OnDelivery,
        *,
        acknowledged: bool = True,
        priority: int = 0,
        on_cancelled: Callable[[], None] | None = None,
    ) -> str:
        consumer = _Consumer(on_delivery, on_cancelled)
        tag = self._ask_topology(
            lambda: self._plain.basic_consume(
                queue,
                no_ack=not acknowledged,
                callback=self._on_message(consumer),
                on_cancel=self._on_cancel,
                arguments={"x-priority": priority} if priority else None,
            ),
            f"queue {queue!r}",
        )
        self._consumers[tag] = consumer
        return str(tag)

    def _on_message(self, consumer: _Consumer) -> Callable[[Any], None]:
        generation = self._generation << _GENERATION
        append = self._arrived.append

        def on_message(message: Any) -> None:
            append(lambda: consumer.on_delivery(self._delivery(message, generation)))

        return on_message

    def _delivery(self, message: Any, generation: int) -> Delivery:
        info, found = message.delivery_info, message.properties.get
        return Delivery(
            self,
            info["delivery_tag"] + generation,
            message.body or b"",
            info["routing_key"],
            info["redelivered"],
            found("content_type"),
            found("message_id"),
            found("correlation_id"),
            found("reply_to"),
            _seconds(found("expiration")),
            found("type"),
            found("application_headers") or {},
        )

    def _on_cancel(self, tag: str) -> None:
        consumer = self._consumers.pop(tag, None)
        if consumer is not None and consumer.on_cancelled is not None:
            self._arrived.append(consumer.on_cancelled)

    def cancel(self, consumer_tag: str) -> None:
        if self._consumers.pop(consumer_tag, None) is not None:
            self._ask_topology(
                lambda: self._plain.basic_cancel(consumer_tag), f"consumer {consumer_tag!r}"
            )

    # -- the end -------------------------------------------------------------

    def close(self) -> None:
        if os.getpid() != self._pid:
            self._drop_copy()
            return
        if self._closed:
            return
        self._closed = True
        self._readiness.wake()
        until = _monotonic() + CLOSE_TIMEOUT
        with contextlib.suppress(Exception), self._as_reader(until):
            # What is still under way would be lost if the descriptor were closed on it; the
            # broker's answer means that it got there.
            self._amqp.answer_by = until
            if self._lock.acquire(True, CLOSE_TIMEOUT):
                try:
                    self._stream.write_by = until
                    self._amqp.close_without_waiting()
                finally:
                    self._stream.write_by = None
                    self._lock.release()
                self._amqp.await_close()
        self._collect()


class _Confirms:
    """The channel in confirm mode, and the one message that waits there."""

    def __init__(self, connection: KombuConnection) -> None:
        self._of = connection
        self._published = 0
        #: Of those up to here the broker has spoken.
        self._settled: dict[int, bool] = {}
        self._returned: list[tuple[str, str, str | None]] = []
        self._channel = channel = connection._open_channel(self._on_closed)
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)
        channel.events["basic_return"].add(self._on_return)
        channel.confirm_select()

    def _on_closed(self) -> None:
        self._of._confirming = None

    def _on_ack(self, tag: int, multiple: bool) -> None:
        self._settle(tag, multiple, True)

    def _on_nack(self, tag: int, multiple: bool) -> None:
        self._settle(tag, multiple, False)

    def _settle(self, tag: int, multiple: bool, accepted: bool) -> None:
        # Only the last one is waited for; the others' time was up.
        if tag == self._published or (multiple and tag in (0, self._published)):
            self._settled[self._published] = accepted

    def _on_return(self, error: Exception, exchange: str, routing_key: str, message: Any) -> None:
        self._returned.append((exchange, routing_key, message.properties.get("message_id")))

    def confirm(self, message: Message, until: float) -> None:
        """Publish, and wait for the broker's word."""
        of, channel = self._of, self._channel
        self._settled.clear()
        self._returned.clear()
        if channel.closed_by is not None:
            raise _topology_error(channel.closed_by, f"exchange {message.exchange!r}")
        of._send(of._frames(channel.channel_id, message, True), until)
        self._published += 1
        while self._published not in self._settled:
            of._read_what_is_there()
            if channel.closed_by is not None:
                raise _topology_error(channel.closed_by, f"exchange {message.exchange!r}")
            if self._published in self._settled:
                break
            left = until - _monotonic()
            if left <= 0:
                raise ConfirmTimeoutError(
                    f"{of.name} did not confirm a message in time; it may have been stored, so "
                    "send it again only if a second copy does no harm"
                )
            of._readiness.wait(left)
            if of._closed:
                of._check()
        if not self._settled[self._published]:
            raise RejectedError(
                f"{of.name} refused a message (basic.nack); the queue may be full: try again later"
            )
        if (message.exchange, message.routing_key, message.message_id) in self._returned:
            raise UnroutableError(
                f"no queue is bound to exchange {message.exchange!r} for routing key "
                f"{message.routing_key!r}; declare and bind one"
            )


def connect(host: Host, options: MessagingOptions, timeout: float) -> KombuConnection:
    """Open a connection.

    Parameters:
        timeout: seconds for everything: name, TCP, TLS, login.

    Raises:
        ConnectError: the host did not let us in; `final` where it refused the credentials, or
            has no such virtual host.
        OptionError: the TLS options name a file that cannot be used.
    """
    waiting = _Waiting(options.socket_timeout)
    context = options.ssl_context()
    tls = options.ssl_options or {}
    client = kombu.Connection(
        hostname=host.hostname,
        port=host.port,
        userid=host.username,
        password=host.password,
        virtual_host=host.virtual_host,
        ssl={"made": context, "server_hostname": tls.get("server_hostname") or host.hostname}
        if context is not None
        else False,
        transport=Transport,
        connect_timeout=timeout,
        heartbeat=options.heartbeat_interval,
        transport_options={
            KOMBU_OPTION: dataclasses.asdict(options.heartbeat_options()),
            "waiting": waiting,
            "channel_max": options.channel_max,
            "frame_max": options.frame_max,
        },
    )
    transport = client.transport
    try:
        connection = transport.establish_connection()
    except MessagingError:
        raise
    except Exception as error:
        raise _connect_error(host, transport.closed_by, error, timeout) from None
    return KombuConnection(connection, host.name)


def _connect_error(
    host: Host, told: tuple[int, str] | None, error: Exception, timeout: float
) -> ConnectError:
    code = told[0] if told else None
    if code == _REFUSED:
        return ConnectError(
            f"{host.name} refused the credentials of user {host.username!r}; correct user or "
            "password",
            final=True,
        )
    if code == _NOT_ALLOWED:
        return ConnectError(
            f"{host.name} has no virtual host {host.virtual_host!r} that user "
            f"{host.username!r} may use; create it, or grant access to it",
            final=True,
        )
    if told:
        return ConnectError(f"{host.name} closed the connection: {told[0]} {told[1]}")
    if isinstance(error, (TimeoutError, NoAnswerError)):
        return ConnectError(f"{host.name} did not let us in within {timeout:g} s; is it there?")
    return ConnectError(
        f"{host.name} cannot be reached ({_words(error)}); see that a broker listens there"
    )


def _topology_error(error: Any, what: str) -> TopologyError:
    remedies = {
        403: "grant the user access to it, or use another name",
        404: "declare it first",
        405: "it is exclusive to another connection: use another name",
        406: "delete it, or declare it as it is",
    }
    code = getattr(error, "reply_code", None)
    remedy = remedies.get(code or 0, "see the broker's log")
    return TopologyError(f"{what}: the broker says {_words(error)}; {remedy}")


def _words(error: Any) -> str:
    text = getattr(error, "reply_text", None) or str(error)
    return str(text) or type(error).__name__


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else int(text) / 1000
    except ValueError:
        return None


def _never() -> bool:
    return False
