"""One AMQP connection over pika: :class:`hbshim.messaging.amqp.connection.Connection`.

Two channels at most. What the broker refuses it answers by closing the channel, and the
consumers on it are gone; so whatever asks for queues and exchanges goes over the one that has
none, and has confirms.

Longer than others: the protocol has as many methods.
"""

from __future__ import annotations

import functools
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any

from hbshim.adapters.pika.session import field_table
from hbshim.errors import (
    BrokerBlockedError,
    ConfirmTimeoutError,
    ConnectionLostError,
    RejectedError,
    TopologyError,
    UnconfirmedError,
    UnroutableError,
)
from hbshim.messaging.amqp.connection import (
    CLOSE_TIMEOUT,
    OnCancelled,
    OnChannelClosed,
    OnDelivery,
    Queue,
    answer_by,
    ignore_channel_closed,
)
from hbshim.messaging.amqp.options import AmqpOptions
from hbshim.messaging.hosts import Host
from hbshim.messaging.pika.channels import Channel, Confirm, Confirms
from hbshim.messaging.pika.line import Line
from hbshim.protocol.encode import acknowledgement, publication, rejection
from hbshim.protocol.messages import DIRECT_REPLY, Delivery, Message
from hbshim.protocol.reply_codes import RESOURCE_LOCKED, is_missing

_NEVER = float("inf")

_monotonic = time.monotonic

#: Asks something on a channel of pika's, and has the answer given to a function.
_Ask = Callable[[Any, Callable[[Any], None]], object]


def connect(host: Host, options: AmqpOptions, deadline: float) -> PikaConnection:
    """Open a connection to one host.

    Parameters:
        deadline: of ``time.monotonic()``, for all of it.

    Raises:
        ConnectError: it did not let us in; `final` for credentials and virtual hosts.
        OptionError: a file that the options name for TLS cannot be used.
    """
    deadline = min(deadline, _monotonic() + options.handshake_timeout)
    line = Line(host, options, deadline)
    try:
        return PikaConnection(line, deadline)
    except BaseException:
        line.drop()
        raise


class PikaConnection:
    """See :class:`hbshim.messaging.amqp.connection.Connection`; made by :func:`connect`."""

    def __init__(self, line: Line, deadline: float) -> None:
        self.name = line.name
        self.on_channel_closed: OnChannelClosed = ignore_channel_closed
        self._line = line
        self._frame_max: int = line.stream.params.frame_max
        # For the next `drain`: what to call, with what.
        self._arrived: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._consumers: dict[str, OnCancelled | None] = {}
        self._plain: Channel | None = None
        self._prefetch: int | None = None
        # The broker's tags begin anew with a new channel; ours go on from here, so that one
        # of a channel that is gone is known as such.
        self._tag_base = self._last_tag = 0
        self._asking: Channel | None = None
        self._confirms: Confirms | None = None
        # Now: a publisher's timeout may be short.
        self._plain_channel(deadline)

    @property
    def is_open(self) -> bool:
        return self._line.is_open

    @property
    def blocked(self) -> bool:
        return self._line.blocked

    # -- channels ------------------------------------------------------------

    def _plain_channel(self, deadline: float) -> Channel:
        channel = self._plain
        if channel is None:
            with self._line.state():
                if self._plain is None:
                    # First: whoever sees the new channel must see this, too.
                    self._tag_base = self._last_tag
                    self._plain = self._open_channel(self._on_plain_closed, self._on_plain_open)
                channel = self._plain
        return self._opened(channel, deadline)

    def _asking_channel(self, deadline: float) -> Channel:
        channel = self._asking
        if channel is None:
            with self._line.state():
                if self._asking is None:
                    self._asking = self._open_channel(self._on_asking_closed, _ignore)
                channel = self._asking
        return self._opened(channel, deadline)

    def _open_channel(
        self, on_closed: Callable[[Channel], None], on_open: Callable[[Any], None]
    ) -> Channel:
        inner = self._line.stream.channel(on_open_callback=on_open)
        inner.add_on_cancel_callback(self._on_cancel)
        return Channel(inner, on_closed)

    def _opened(self, channel: Channel, deadline: float) -> Channel:
        if not channel.inner.is_open and not self._line.wait_for(lambda: channel.settled, deadline):
            raise BrokerBlockedError(
                f"{self.name}: the broker did not open a channel in time; it may be short of "
                "memory or disk, or overloaded: see its log, and try again later"
            )
        return channel

    def _on_plain_open(self, inner: Any) -> None:
        if self._prefetch is not None:
            inner.basic_qos(prefetch_count=self._prefetch)

    def _on_plain_closed(self, channel: Channel) -> None:
        self._plain = None
        consumers, self._consumers = self._consumers, {}
        if self._line.stream.ended:
            return
        for on_cancelled in consumers.values():
            if on_cancelled is None:
                # Nobody would hear that nothing comes any more.
                self._line.stream.doom(ConnectionLostError(f"a channel was {channel.reason}"))
            else:
                self._arrived.append((on_cancelled, channel.reason))
        if channel.closed_by is not None:
            self.on_channel_closed(*channel.closed_by)

    def _on_asking_closed(self, _channel: Channel) -> None:
        self._asking = self._confirms = None

    def _ask(
        self, doing: str, ask: _Ask, deadline: float | None, channel: Channel | None = None
    ) -> Any:
        """Ask the broker for something, and wait for the answer; `doing` is for errors."""
        deadline = answer_by(deadline)
        channel = channel or self._asking_channel(deadline)
        answers: list[Any] = []
        with self._line.state():
            if not channel.gone:
                ask(channel.inner, answers.append)
        self._line.wait_for(lambda: answers or channel.gone, deadline)
        if answers:
            return answers[0].method
        refusal = channel.refusal(doing)
        if refusal is not None:
            raise refusal
        with self._line.state():
            blocked = self._line.blocked
            lost = self._line.failed(TimeoutError(f"the broker did not answer in time: {doing}"))
        if blocked:
            raise BrokerBlockedError(
                f"{self.name}: the broker reads nothing for now (a memory or disk alarm), and "
                f"did not answer in time: {doing}; try again later"
            ) from lost
        raise lost

    # -- publishing ----------------------------------------------------------

    def publish(self, message: Message, timeout: float | None = None) -> None:
        deadline = _NEVER if timeout is None else _monotonic() + timeout
        while True:
            channel = self._plain
            if channel is None or not channel.inner.is_open:
                channel = self._plain_channel(deadline)
            if self._line.write(self._frames(channel, message), deadline, channel):
                return

    def _frames(self, channel: Channel, message: Message, *, mandatory: bool = False) -> bytes:
        return publication(
            message, channel.number, self._frame_max, field_table, mandatory=mandatory
        )

    def publish_confirmed(self, message: Message, timeout: float) -> None:
        deadline = _monotonic() + timeout
        confirm = Confirm(message)
        while True:
            channel, confirms = self._confirming_channel(deadline)
            written = functools.partial(confirms.published, confirm)
            frames = self._frames(channel, message, mandatory=True)
            if self._line.write(frames, deadline, channel, written):
                break
        there = f"exchange {message.exchange!r}, routing key {message.routing_key!r}"
        try:
            settled = self._line.wait_for(lambda: confirm.settled or channel.gone, deadline)
            if settled and not confirm.settled:
                self._line.check()
        except ConnectionLostError as error:
            raise UnconfirmedError(str(error)) from error
        if not settled:
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
                f"{self.name}: the broker refused a message to {there} (basic.nack); its queue "
                "may be full: try again later"
            )
        if not confirm.settled:
            raise channel.refusal(f"take a message to {there}") or ConfirmTimeoutError(
                f"{self.name}: the channel ended before a message to {there} was confirmed; it "
                "may or may not have been stored"
            )

    def _confirming_channel(self, deadline: float) -> tuple[Channel, Confirms]:
        while True:
            channel = self._asking_channel(deadline)
            with self._line.state():
                if self._confirms is None and not channel.gone:
                    self._confirms = Confirms(channel)
                confirms = self._confirms
            if confirms is not None and self._in_confirm_mode(channel, confirms, deadline):
                return channel, confirms

    def _in_confirm_mode(self, channel: Channel, confirms: Confirms, deadline: float) -> bool:
        if not confirms.selected and not self._line.wait_for(
            lambda: confirms.selected or channel.gone, deadline
        ):
            raise BrokerBlockedError(
                f"{self.name}: the broker does not answer in time; it may be short of memory or "
                "disk, or overloaded: see its log, and try again later"
            )
        return not channel.gone

    # -- exchanges and queues ------------------------------------------------

    def declare_exchange(self, name: str, kind: str, deadline: float | None = None) -> None:
        def ask(channel: Any, answer: Callable[[Any], None]) -> None:
            channel.exchange_declare(name, kind, durable=True, callback=answer)

        self._ask(f"declare the {kind} exchange {name!r}", ask, deadline)

    def declare_queue(self, queue: Queue, deadline: float | None = None) -> None:
        def ask(channel: Any, answer: Callable[[Any], None]) -> None:
            channel.queue_declare(
                queue.name,
                durable=not queue.exclusive,
                exclusive=queue.exclusive,
                arguments=queue.declaration(),
                callback=answer,
            )

        self._ask(f"declare the queue {queue.name!r}", ask, deadline)

    def queue_exists(self, name: str, deadline: float | None = None) -> bool:
        try:
            self._ask(f"find the queue {name!r}", _asking_for(name), deadline)
        except TopologyError as refused:
            if is_missing(refused):
                return False
            # Another connection's own queue is there, too.
            if refused.code != RESOURCE_LOCKED:
                raise
        return True

    def bind(
        self, queue: str, exchange: str, routing_key: str, deadline: float | None = None
    ) -> None:
        def ask(channel: Any, answer: Callable[[Any], None]) -> None:
            channel.queue_bind(queue, exchange, routing_key, callback=answer)

        self._ask(f"bind the queue {queue!r} to the exchange {exchange!r}", ask, deadline)

    def delete_queue(
        self,
        name: str,
        *,
        if_unused: bool = False,
        if_empty: bool = False,
        deadline: float | None = None,
    ) -> int:
        def ask(channel: Any, answer: Callable[[Any], None]) -> None:
            channel.queue_delete(name, if_unused, if_empty, callback=answer)

        try:
            return int(self._ask(f"delete the queue {name!r}", ask, deadline).message_count)
        except TopologyError as refused:
            if is_missing(refused):
                return 0
            raise

    # -- consuming -----------------------------------------------------------

    def set_prefetch(self, count: int, deadline: float | None = None) -> None:
        def ask(channel: Any, answer: Callable[[Any], None]) -> None:
            channel.basic_qos(prefetch_count=count, callback=answer)

        self._prefetch = count
        deadline = answer_by(deadline)
        self._ask(
            f"set the prefetch count to {count}", ask, deadline, self._plain_channel(deadline)
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
        deadline = answer_by(deadline)
        doing = f"consume from the queue {queue!r}"
        if self._consumers and queue != DIRECT_REPLY:
            # A refusal would end the other consumers of the channel, too.
            self._ask(doing, _asking_for(queue), deadline)

        def arrived(message: Delivery) -> None:
            self._arrived.append((on_delivery, self._delivery(message)))

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

        return str(self._ask(doing, ask, deadline, self._plain_channel(deadline)).consumer_tag)

    def _delivery(self, message: Delivery) -> Delivery:
        message.connection = self
        self._last_tag = message.tag = self._tag_base + message.tag
        return message

    def cancel(self, consumer_tag: str, deadline: float | None = None) -> None:
        deadline = answer_by(deadline)
        with self._line.state():
            if self._consumers.pop(consumer_tag, _ignore) is _ignore:
                return

        def ask(channel: Any, answer: Callable[[Any], None]) -> None:
            channel.basic_cancel(consumer_tag, callback=answer)

        self._ask("cancel a consumer", ask, deadline, self._plain_channel(deadline))

    def _on_cancel(self, frame: Any) -> None:
        on_cancelled = self._consumers.pop(frame.method.consumer_tag, None)
        if on_cancelled is not None:
            self._arrived.append((on_cancelled, None))

    def start_consumer(
        self,
        queue: str,
        on_delivery: OnDelivery,
        *,
        on_cancelled: OnCancelled,
        deadline: float,
    ) -> str:
        tag = f"hbshim.{uuid.uuid4().hex}"
        channel = self._plain_channel(deadline)

        def arrived(message: Delivery) -> None:
            self._arrived.append((on_delivery, self._delivery(message)))

        with self._line.state():
            self._consumers[tag] = on_cancelled
            channel.inner.basic_consume(queue, arrived, consumer_tag=tag)
        return tag

    def stop_consumer(
        self,
        consumer_tag: str,
        deadline: float,
        on_stopped: Callable[[], None] | None = None,
    ) -> None:
        channel = self._plain_channel(deadline)

        def answered(_frame: Any) -> None:
            if on_stopped is not None:
                # Behind what was delivered before.
                self._arrived.append((lambda _: on_stopped(), None))

        with self._line.state():
            if self._consumers.pop(consumer_tag, _ignore) is not _ignore:
                # With a function: else pika keeps the tag for as long as the channel lasts.
                channel.inner.basic_cancel(consumer_tag, callback=answered)

    def acknowledge(self, tag: int, deadline: float | None = None) -> bool:
        return self._settle(acknowledgement, tag)

    def requeue(self, tag: int) -> bool:
        return self._settle(rejection, tag)

    def _settle(self, frame: Callable[[int, int], bytes], tag: int) -> bool:
        channel, base = self._plain, self._tag_base
        # What came on a channel that is gone has been queued again long since.
        if channel is None or tag <= base:
            self._line.check()
            return False
        return self._line.write_at_once(frame(channel.number, tag - base), channel)

    def drain(self, timeout: float) -> None:
        arrived, line = self._arrived, self._line
        deadline = _monotonic() + timeout
        left = timeout
        while not arrived and not line.take_wake():
            try:
                line.receive(left, lambda: arrived or line.woken)
            except ConnectionLostError:
                if not arrived:
                    raise
            left = deadline - _monotonic()
            if left <= 0:
                break
        for _ in range(len(arrived)):
            call, argument = arrived.popleft()
            call(argument)

    def wake(self) -> None:
        self._line.wake()

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        self._line.close(timeout)


def _asking_for(queue: str) -> _Ask:
    def ask(channel: Any, answer: Callable[[Any], None]) -> None:
        channel.queue_declare(queue, passive=True, callback=answer)

    return ask


def _ignore(*_arguments: Any) -> None:
    return None
