"""One AMQP connection over kombu and py-amqp.

Two channels: what the broker refuses it answers by closing the channel, and the consumers on
it are gone. So whatever asks for queues and exchanges goes over the one that has none, and
has confirms.

Longer than others: the protocol has as many methods.
"""

from __future__ import annotations

import dataclasses
import functools
import struct
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from amqp.exceptions import FrameSyntaxError

from hbshim.adapters.pyamqp.field_tables import field_table
from hbshim.adapters.pyamqp.session import Channel, NoAnswerError
from hbshim.errors import (
    BrokerBlockedError,
    ConfirmTimeoutError,
    ConnectionLostError,
    PayloadError,
    RejectedError,
    TopologyError,
    UnconfirmedError,
    UnroutableError,
)
from hbshim.messaging.amqp.connection import (
    METHOD_TIMEOUT,
    OnCancelled,
    OnChannelClosed,
    OnDelivery,
    Queue,
    answer_by,
    ignore_channel_closed,
)
from hbshim.messaging.kombu.confirms import Confirms
from hbshim.messaging.kombu.line import FOREVER, Line
from hbshim.messaging.readiness import Readiness
from hbshim.protocol.encode import acknowledgement, publication, rejection
from hbshim.protocol.messages import DIRECT_REPLY, Delivery, Message
from hbshim.protocol.reply_codes import (
    RESOURCE_LOCKED,
    is_missing,
    topology_refused,
)

_T = TypeVar("_T")

#: Above the broker's own number in a delivery's tag: which channel it came on.
_GENERATION = 48
_TAG = (1 << _GENERATION) - 1
#: Names and tables that AMQP has no form for; raised before anything is written.
_UNFIT = (struct.error, FrameSyntaxError, OverflowError, UnicodeError)
_monotonic = time.monotonic


@dataclasses.dataclass(slots=True)
class _Consumer:
    on_delivery: OnDelivery
    on_cancelled: OnCancelled | None


class KombuConnection(Line):
    """See :class:`hbshim.messaging.amqp.connection.Connection`; made by
    :func:`hbshim.messaging.kombu.connect`."""

    def __init__(self, connection: Any, name: str, readiness: Readiness) -> None:
        super().__init__(connection, name, readiness)
        self._frame_max = connection.frame_max
        self.on_channel_closed: OnChannelClosed = ignore_channel_closed
        self._consumers: dict[str, _Consumer] = {}
        self._prefetch: int | None = None
        self._generation = -1
        self._asking: Channel | None = None
        self._confirms: Confirms | None = None
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
        closed_by = self._plain.closed_by
        code, text = closed_by or (0, "no reason given")
        reason = f"closed by the broker: {text} ({code})"
        consumers, self._consumers = self._consumers, {}
        self._open_plain()
        for consumer in consumers.values():
            on_cancelled = consumer.on_cancelled or self._end_for_a_consumer
            self.arrived.append(functools.partial(on_cancelled, reason))
        if closed_by is not None:
            self.on_channel_closed(*closed_by)

    def _end_for_a_consumer(self, _reason: str | None) -> None:
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
        self,
        doing: str,
        question: Callable[[Channel], _T],
        deadline: float | None,
        channel: Channel | None = None,
    ) -> _T:
        """Ask the broker, and wait for the answer.

        Raises:
            TopologyError: it refused.
        """
        self.check()
        until = answer_by(deadline)
        return self.as_reader(until, lambda: self._ask_as_reader(doing, question, channel, until))

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
            blocked = self.blocked
            lost = self.lost(TimeoutError(f"the broker did not {doing} in time"))
            if blocked:
                raise self.stalled() from lost
            raise lost from None
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
        self.send(self._frames(self._plain.channel_id, message), until)

    def _frames(self, channel: int, message: Message, *, mandatory: bool = False) -> bytes:
        return publication(message, channel, self._frame_max, field_table, mandatory=mandatory)

    def publish_confirmed(self, message: Message, timeout: float) -> None:
        self.check()
        until = _monotonic() + timeout
        self.look()
        if self.blocked:
            self.await_unblocked(until)
        self.as_reader(until, lambda: self._confirm(message, until))

    def _select(self, channel: Channel) -> Confirms:
        channel.confirm_select()
        self._confirms = confirms = Confirms(channel)
        return confirms

    def _confirm(self, message: Message, until: float) -> None:
        confirms = self._confirms or self._ask_as_reader(
            "confirm", self._select, None, max(until, _monotonic() + 0.1)
        )
        channel = self._asking
        assert channel is not None, "confirms go with their channel"
        data = self._frames(channel.channel_id, message, mandatory=True)
        try:
            self.send(data, until)
            confirms.begin()
        except BrokerBlockedError:
            raise  # nothing was written
        except BaseException as error:
            # The broker counts the messages, and may have counted one more than we have: the
            # confirm of this one would be taken for that of the next.
            self.lost(error)
            raise
        while not confirms.settled:
            try:
                arrived = self.await_news(until)
            except ConnectionLostError as error:
                raise UnconfirmedError(str(error)) from error
            if not arrived:
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

    def acknowledge(self, tag: int, deadline: float | None = None) -> bool:
        return self._settle(acknowledgement, tag, deadline)

    def requeue(self, tag: int) -> bool:
        return self._settle(rejection, tag, None)

    def _settle(self, frame: Callable[[int, int], bytes], tag: int, deadline: float | None) -> bool:
        self.check()
        # What came on a channel that is gone has been queued again by the broker.
        if tag >> _GENERATION != self._generation:
            return False
        self.send(frame(self._plain.channel_id, tag & _TAG), deadline)
        return True

    # -- topology ------------------------------------------------------------

    def declare_exchange(self, name: str, kind: str, deadline: float | None = None) -> None:
        self._ask(
            f"declare exchange {name!r}",
            lambda channel: channel.exchange_declare(name, kind, durable=True, auto_delete=False),
            deadline,
        )

    def declare_queue(self, queue: Queue, deadline: float | None = None) -> None:
        self._ask(
            f"declare queue {queue.name!r}",
            lambda channel: channel.queue_declare(
                queue.name,
                durable=not queue.exclusive,
                exclusive=queue.exclusive,
                auto_delete=False,
                arguments=queue.declaration(),
            ),
            deadline,
        )

    def _look_up(self, queue: str, deadline: float | None) -> None:
        self._ask(
            f"look up queue {queue!r}",
            lambda channel: channel.queue_declare(queue, passive=True),
            deadline,
        )

    def queue_exists(self, name: str, deadline: float | None = None) -> bool:
        try:
            self._look_up(name, deadline)
        except TopologyError as refused:
            if is_missing(refused):
                return False
            # One that is another connection's own is there.
            if refused.code != RESOURCE_LOCKED:
                raise
        return True

    def bind(
        self, queue: str, exchange: str, routing_key: str, deadline: float | None = None
    ) -> None:
        self._ask(
            f"bind queue {queue!r} to exchange {exchange!r}",
            lambda channel: channel.queue_bind(queue, exchange, routing_key),
            deadline,
        )

    def delete_queue(
        self,
        name: str,
        *,
        if_unused: bool = False,
        if_empty: bool = False,
        deadline: float | None = None,
    ) -> int:
        try:
            return int(
                self._ask(
                    f"delete queue {name!r}",
                    lambda channel: channel.queue_delete(
                        name, if_unused=if_unused, if_empty=if_empty
                    ),
                    deadline,
                )
            )
        except TopologyError as refused:
            if is_missing(refused):
                return 0
            raise

    # -- consuming -----------------------------------------------------------

    def set_prefetch(self, count: int, deadline: float | None = None) -> None:
        self._prefetch = count
        self._ask(
            "set the prefetch",
            lambda channel: channel.basic_qos(0, count, False),
            deadline,
            self._plain,
        )

    def consume(
        self,
        queue: str,
        on_delivery: OnDelivery,
        *,
        acknowledged: bool = True,
        priority: int = 0,
        on_cancelled: OnCancelled | None = None,
        deadline: float | None = None,
    ) -> str:
        if queue != DIRECT_REPLY:
            # Asked where nobody consumes: a refusal would end the consumers that are there.
            self._look_up(queue, deadline)
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
            deadline,
            self._plain,
        )
        self._consumers[tag] = consumer
        return str(tag)

    def start_consumer(
        self,
        queue: str,
        on_delivery: OnDelivery,
        *,
        on_cancelled: OnCancelled,
        deadline: float,
    ) -> str:
        tag = f"hbshim.{uuid.uuid4().hex}"
        consumer = _Consumer(on_delivery, on_cancelled)

        def start() -> None:
            # Registered first: another thread may read what the broker sends at once.
            channel = self._plain
            self._consumers[tag] = consumer
            channel.callbacks[tag] = on_message = self._on_message(consumer)
            channel.basic_consume(
                queue, tag, nowait=True, callback=on_message, on_cancel=self._on_cancel
            )

        self.write_by_library(start, deadline)
        return tag

    def stop_consumer(
        self,
        consumer_tag: str,
        deadline: float,
        on_stopped: Callable[[], None] | None = None,
    ) -> None:
        if self._consumers.pop(consumer_tag, None) is None:
            return
        arrived = self.arrived

        def on_cancel_ok() -> None:
            if on_stopped is not None:
                # Behind what was delivered before.
                arrived.append(on_stopped)

        self.write_by_library(
            lambda: self._plain.cancel_without_waiting(consumer_tag, on_cancel_ok), deadline
        )

    def _on_message(self, consumer: _Consumer) -> Callable[[Delivery], None]:
        generation = self._generation << _GENERATION
        arrived = self.arrived

        def on_message(message: Delivery) -> None:
            message.connection = self
            message.tag += generation
            arrived.append(functools.partial(consumer.on_delivery, message))

        return on_message

    def _on_cancel(self, tag: str) -> None:
        consumer = self._consumers.pop(tag, None)
        if consumer is not None and consumer.on_cancelled is not None:
            self.arrived.append(functools.partial(consumer.on_cancelled, None))

    def cancel(self, consumer_tag: str, deadline: float | None = None) -> None:
        self.check()
        if self._consumers.pop(consumer_tag, None) is not None:
            self._ask(
                f"cancel consumer {consumer_tag!r}",
                lambda channel: channel.basic_cancel(consumer_tag),
                deadline,
                self._plain,
            )

    def drain(self, timeout: float) -> None:
        self.check()
        until = _monotonic() + timeout
        self._drainers += 1
        try:
            self.as_reader(
                until + METHOD_TIMEOUT,
                lambda: None if self.arrived else self.await_arrival(until),
                hurry=False,
            )
        finally:
            self._drainers -= 1
        arrived = self.arrived
        while arrived:
            arrived.popleft()()
