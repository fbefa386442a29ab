"""One AMQP connection over kombu and py-amqp.

Two channels: what the broker refuses it answers by closing the channel, and the consumers on
it are gone. So whatever asks for queues and exchanges goes over the one that has none, and
has confirms.
"""

from __future__ import annotations

import contextlib
import dataclasses
import struct
import time
from collections.abc import Callable
from typing import Any, TypeVar

import kombu
from amqp.exceptions import AMQPError, FrameSyntaxError

from hbshim.adapters.amqp import KOMBU_OPTION
from hbshim.adapters.amqp_channel import Channel, NoAnswerError, Transport
from hbshim.adapters.amqp_frames import acknowledgement, publication, rejection
from hbshim.errors import (
    ConfirmTimeoutError,
    ConnectError,
    ConnectionLostError,
    PayloadError,
    RejectedError,
    UnroutableError,
)
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
from hbshim.messaging.kombu.line import FOREVER, METHOD_TIMEOUT, Line
from hbshim.messaging.options import MessagingOptions

_T = TypeVar("_T")

#: Above the broker's own number in a delivery's tag: which channel it came on.
_GENERATION = 48
_TAG = (1 << _GENERATION) - 1
#: Names and tables that AMQP has no form for; raised before anything is written.
_UNFIT = (struct.error, FrameSyntaxError, OverflowError, UnicodeError)
_monotonic = time.monotonic


class _Waiting:
    """See :class:`hbshim.adapters.amqp_stream.Waiting`."""

    def __init__(self, host: Host, options: MessagingOptions, open_by: float) -> None:
        self._host, self._options, self._open_by = host, options, open_by
        self.readiness: Readiness | None = None

    def dial(self) -> Any:
        self._sock = sock = dial(self._host, self._options, self._open_by)
        self.readiness = Readiness(sock.fileno())
        return sock

    def abandon(self) -> None:
        """Close what is open of a connection that did not come to be."""
        if self.readiness is not None:
            self.readiness.close(self._sock.close)

    def readable(self, timeout: float) -> bool:
        assert self.readiness is not None, "dialled before"
        return self.readiness.wait(timeout)

    def writable(self, timeout: float) -> bool:
        # In slices: a descriptor closed meanwhile is heard of by looking again.
        return wait_writable(self._sock.fileno(), min(timeout, 1.0))

    def close(self, then: Callable[[], None]) -> None:
        assert self.readiness is not None, "dialled before"
        self.readiness.close(then)


@dataclasses.dataclass(slots=True)
class _Consumer:
    on_delivery: OnDelivery
    on_cancelled: Callable[[], None] | None


class _Confirms:
    """What the broker said of the messages published on a channel in confirm mode.

    One message at a time waits. Of those whose time was up the broker may still speak, in
    the order in which they were published.
    """

    def __init__(self, channel: Channel) -> None:
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)
        channel.events["basic_return"].add(self._on_return)
        self.published = 0
        self._settled = 0
        self._rejected = False
        self._returned: list[Any] = []

    def begin(self) -> None:
        self.published += 1
        self._rejected = False
        self._returned.clear()

    @property
    def settled(self) -> bool:
        return self._settled >= self.published

    @property
    def rejected(self) -> bool:
        return self._rejected

    def returned(self, message: Message) -> bool:
        """Whether it came back; RabbitMQ returns a message before it confirms it."""
        return any(
            (returned.get("message_id"), exchange, routing_key)
            == (message.message_id, message.exchange, message.routing_key)
            for returned, exchange, routing_key in self._returned
        )

    def _on_ack(self, tag: int, multiple: bool) -> None:
        self._settle(tag, multiple)

    def _on_nack(self, tag: int, multiple: bool) -> None:
        self._settle(tag, multiple)
        self._rejected = self.settled

    def _settle(self, tag: int, multiple: bool) -> None:
        # RabbitMQ may confirm out of order; only the last one is waited for.
        self._settled = max(self._settled, self.published if multiple and not tag else tag)

    def _on_return(self, _error: Any, exchange: str, routing_key: str, message: Any) -> None:
        self._returned.append((message.properties, exchange, routing_key))


class KombuConnection(Line):
    """See :class:`hbshim.messaging.amqp.connection.Connection`; made by :func:`connect`."""

    def __init__(self, connection: Any, name: str, readiness: Readiness) -> None:
        super().__init__(connection, name, readiness)
        self._frame_max = connection.frame_max
        self._consumers: dict[str, _Consumer] = {}
        self._prefetch: int | None = None
        self._generation = -1
        self._asking: Channel | None = None
        self._confirms: _Confirms | None = None
        self._open_plain()

    # -- channels ------------------------------------------------------------

    def _open_plain(self) -> None:
        """The channel to consume, publish and acknowledge on; nobody waits for it."""
        with self._lock:
            self._generation += 1
            self._plain = channel = Channel(self._amqp, self._on_plain_closed)
            channel.open_without_waiting()
            if self._prefetch is not None:
                channel.set_prefetch_without_waiting(self._prefetch)

    def _on_plain_closed(self) -> None:
        consumers, self._consumers = self._consumers, {}
        self._open_plain()
        for consumer in consumers.values():
            self.arrived.append(consumer.on_cancelled or self._end_for_a_consumer)

    def _end_for_a_consumer(self) -> None:
        """Nobody asked to be told that this consumer ended; it must not go unnoticed."""
        raise self.lost(RuntimeError("the broker closed the channel of its consumers"))

    def _asking_channel(self) -> Channel:
        """The channel for questions and confirms."""
        if self._asking is None:
            channel = Channel(self._amqp, self._on_asking_closed)
            channel.open_without_waiting()
            self._asking = channel
        return self._asking

    def _on_asking_closed(self) -> None:
        self._asking = self._confirms = None

    def _ask(
        self, doing: str, question: Callable[[Channel], _T], channel: Channel | None = None
    ) -> _T:
        """Ask the broker, and wait for the answer.

        Raises:
            TopologyError: it refused.
        """
        self.check()
        until = _monotonic() + METHOD_TIMEOUT
        with self.reader(until):
            return self._ask_as_reader(doing, question, channel, until)

    def _ask_as_reader(
        self, doing: str, question: Callable[[Channel], _T], channel: Channel | None, until: float
    ) -> _T:
        try:
            channel = channel or self._asking_channel()
            self._amqp.answer_by = until
            answer = question(channel)
            # What came right behind it must not wait for the next who looks at the socket.
            self.read(look=False)
            return answer
        except ConnectionLostError:
            raise
        except _UNFIT as error:
            raise PayloadError(
                f"AMQP has no form for a name or argument of this ({error}); names have 255 "
                "octets at most"
            ) from error
        except NoAnswerError:
            raise self.lost(TimeoutError(f"the broker did not {doing} in time")) from None
        except Exception as error:
            if channel is not None and channel.closed_by is not None:
                raise topology_refused(doing, *channel.closed_by) from None
            raise self.lost(error) from error
        except BaseException as error:
            # The answer that nobody waits for any more would be taken for the next one's.
            self.lost(error)
            raise

    # -- publishing ----------------------------------------------------------

    def publish(self, message: Message, timeout: float | None = None) -> None:
        self.check()
        until = FOREVER if timeout is None else _monotonic() + timeout
        self.look()
        if self.blocked:
            self.await_unblocked(until)
        self.send(self._frames(self._plain.channel_id, message, False), until)

    def _frames(self, channel: int, message: Message, mandatory: bool) -> bytes:
        return publication(
            channel,
            self._frame_max,
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

    def publish_confirmed(self, message: Message, timeout: float) -> None:
        self.check()
        until = _monotonic() + timeout
        self.look()
        if self.blocked:
            self.await_unblocked(until)
        with self.reader(until):
            confirms = self._confirms or self._ask_as_reader(
                "confirm", self._select, None, max(until, _monotonic() + 0.1)
            )
            self._confirm(message, confirms, until)

    def _select(self, channel: Channel) -> _Confirms:
        channel.confirm_select()
        self._confirms = confirms = _Confirms(channel)
        return confirms

    def _confirm(self, message: Message, confirms: _Confirms, until: float) -> None:
        channel = self._asking
        assert channel is not None, "confirms go with their channel"
        data = self._frames(channel.channel_id, message, True)
        # Under the lock, so that the count is that of the messages sent.
        self.send(data, until)
        confirms.begin()
        while not confirms.settled:
            if not self.await_news(until):
                raise ConfirmTimeoutError(
                    f"{self.name}: the broker did not confirm a message in time; it may have "
                    "been stored, so send it again only where a second copy does no harm"
                )
            if channel.closed_by is not None:
                raise topology_refused(
                    f"publish to exchange {message.exchange!r}", *channel.closed_by
                )
        if confirms.rejected:
            raise RejectedError(
                f"{self.name}: the broker refused a message (basic.nack), as it does when a "
                "queue is full; try again later"
            )
        if confirms.returned(message):
            raise UnroutableError(
                f"no queue is bound to exchange {message.exchange!r} for routing key "
                f"{message.routing_key!r}; declare and bind one"
            )

    # -- settling ------------------------------------------------------------

    def acknowledge(self, tag: int) -> None:
        self._settle(acknowledgement, tag)

    def requeue(self, tag: int) -> None:
        self._settle(rejection, tag)

    def _settle(self, frame: Callable[[int, int], bytes], tag: int) -> None:
        self.check()
        # What came on a channel that is gone has been queued again by the broker.
        if tag >> _GENERATION == self._generation:
            self.send(frame(self._plain.channel_id, tag & _TAG), None)

    # -- topology ------------------------------------------------------------

    def declare_exchange(self, name: str, kind: str) -> None:
        self._ask(
            f"declare exchange {name!r}",
            lambda channel: channel.exchange_declare(name, kind, durable=True, auto_delete=False),
        )

    def declare_queue(self, queue: Queue) -> None:
        self._ask(
            f"declare queue {queue.name!r}",
            lambda channel: channel.queue_declare(
                queue.name,
                durable=not queue.exclusive,
                exclusive=queue.exclusive,
                auto_delete=False,
                arguments=queue.declaration(),
            ),
        )

    def _look_up(self, queue: str) -> None:
        self._ask(
            f"look up queue {queue!r}",
            lambda channel: channel.queue_declare(queue, passive=True),
        )

    def queue_exists(self, name: str) -> bool:
        try:
            self._look_up(name)
        except TopologyRefusedError as refused:
            if refused.code == NOT_FOUND:
                return False
            # One that is another connection's own is there.
            if refused.code != RESOURCE_LOCKED:
                raise
        return True

    def bind(self, queue: str, exchange: str, routing_key: str) -> None:
        self._ask(
            f"bind queue {queue!r} to exchange {exchange!r}",
            lambda channel: channel.queue_bind(queue, exchange, routing_key),
        )

    def delete_queue(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        try:
            return int(
                self._ask(
                    f"delete queue {name!r}",
                    lambda channel: channel.queue_delete(
                        name, if_unused=if_unused, if_empty=if_empty
                    ),
                )
            )
        except TopologyRefusedError as refused:
            if refused.code == NOT_FOUND:
                return 0
            raise

    # -- consuming -----------------------------------------------------------

    def set_prefetch(self, count: int) -> None:
        self._prefetch = count
        self._ask(
            "set the prefetch", lambda channel: channel.basic_qos(0, count, False), self._plain
        )

    def consume(
        self,
        queue: str,
        on_delivery: OnDelivery,
        *,
        acknowledged: bool = True,
        priority: int = 0,
        on_cancelled: Callable[[], None] | None = None,
    ) -> str:
        if queue != DIRECT_REPLY:
            # Asked where nobody consumes: a refusal would end the consumers that are there.
            self._look_up(queue)
        consumer = _Consumer(on_delivery, on_cancelled)
        tag = self._ask(
            f"consume from queue {queue!r}",
            lambda channel: channel.basic_consume(
                queue,
                no_ack=not acknowledged,
                callback=self._on_message(consumer),
                on_cancel=self._on_cancel,
                arguments={"x-priority": priority} if priority else None,
            ),
            self._plain,
        )
        self._consumers[tag] = consumer
        return str(tag)

    def _on_message(self, consumer: _Consumer) -> Callable[[Any], None]:
        generation = self._generation << _GENERATION
        arrived = self.arrived

        def on_message(message: Any) -> None:
            arrived.append(lambda: consumer.on_delivery(self._delivery(message, generation)))

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
            self.arrived.append(consumer.on_cancelled)

    def cancel(self, consumer_tag: str) -> None:
        self.check()
        if self._consumers.pop(consumer_tag, None) is not None:
            self._ask(
                f"cancel consumer {consumer_tag!r}",
                lambda channel: channel.basic_cancel(consumer_tag),
                self._plain,
            )

    def drain(self, timeout: float) -> None:
        self.check()
        until = _monotonic() + timeout
        self._drainers += 1
        try:
            with self.reader(until + METHOD_TIMEOUT, hurry=False):
                if not self.arrived:
                    self.await_arrival(until)
        finally:
            self._drainers -= 1
        arrived = self.arrived
        while arrived:
            arrived.popleft()()


def connect(host: Host, options: MessagingOptions, timeout: float) -> KombuConnection:
    """Open a connection to one host.

    Parameters:
        timeout: seconds for all of it.

    Raises:
        ConnectError: it did not let us in; `final` for credentials and virtual hosts.
        OptionError: a file that the options name for TLS cannot be used.
        WorkerError: the heartbeat worker asked for cannot run in this process.
    """
    open_by = _monotonic() + timeout
    waiting = _Waiting(host, options, open_by)
    client = kombu.Connection(
        hostname=host.hostname,
        port=host.port,
        userid=host.username,
        password=host.password,
        virtual_host=host.virtual_host,
        transport=Transport,
        connect_timeout=options.socket_timeout,
        heartbeat=options.heartbeat_interval,
        transport_options={
            KOMBU_OPTION: dataclasses.asdict(options.heartbeat_options()),
            "waiting": waiting,
            "open_by": open_by,
            "channel_max": options.channel_max,
            "frame_max": options.frame_max,
            "client_properties": {"connection_name": connection_name("kombu")},
        },
    )
    transport = client.transport
    try:
        connection = transport.establish_connection()
        assert waiting.readiness is not None, "establish_connection() dials"
        return KombuConnection(connection, host.name, waiting.readiness)
    except NoAnswerError:
        waiting.abandon()
        raise ConnectError(f"{host.name}: the broker does not answer the handshake") from None
    except (AMQPError, OSError) as error:
        waiting.abandon()
        if transport.closed_by is not None:
            raise login_refused(
                host.name, host.username, host.virtual_host, *transport.closed_by
            ) from None
        raise ConnectError(f"{host.name}: {error}; does it speak AMQP 0-9-1?") from None
    except BaseException:
        waiting.abandon()
        raise


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        return int(text) / 1000
    return None
