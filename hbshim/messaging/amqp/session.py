"""One AMQP 0-9-1 connection: :class:`hbshim.messaging.amqp.connection.Connection`.

It has two channels, with fixed numbers. The broker answers an invalid method by closing the
channel, which ends the consumers on it. Synchronous methods about queues and exchanges, and
messages with confirms, therefore use the control channel; consumers and everything else use the
data channel. A channel that the broker closes is opened again at once, under the lock: no thread
ever finds it closed.

Longer than others: the protocol has as many methods.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

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
from hbshim.messaging.amqp.confirms import Confirm, Confirms
from hbshim.messaging.amqp.connection import (
    CLOSE_TIMEOUT,
    OnCancelled,
    OnChannelClosed,
    OnDelivery,
    Queue,
    answer_by,
    ignore_channel_closed,
)
from hbshim.messaging.amqp.stream import Stream
from hbshim.messaging.joining import Part
from hbshim.protocol import methods
from hbshim.protocol.decode import DeliveryDecoder, OnMessage
from hbshim.protocol.encode import (
    acknowledgement,
    publication,
    rejection,
    rejection_without_requeue,
)
from hbshim.protocol.frames import not_amqp
from hbshim.protocol.messages import DIRECT_REPLY, Delivery, Message
from hbshim.protocol.methods import MethodId
from hbshim.protocol.reply_codes import RESOURCE_LOCKED, is_missing, topology_refused

#: Numbers of the two channels.
DATA, CONTROL = 1, 2

#: Prefixes of consumer tags: of consumers that acknowledge, and of those that do not.
_ACK, _NO_ACK = "hbshim.", "hbshim-no-ack."

_NEVER = float("inf")
_monotonic = time.monotonic


class _Answer:
    """The broker's answer to one synchronous method.

    Attributes:
        payload: of the answer; None until it arrives.
        closed_by: code and text if the broker closed the channel over the method.
        ignored: the broker closed the channel over something before it.
    """

    __slots__ = ("closed_by", "consumer_tag", "ignored", "method", "on_answer", "payload")

    def __init__(
        self, method: MethodId, consumer_tag: str | None, on_answer: Callable[[], None]
    ) -> None:
        self.method = method
        self.consumer_tag = consumer_tag
        self.on_answer = on_answer
        self.payload: bytes | None = None
        self.closed_by: tuple[int, str] | None = None
        self.ignored = False

    @property
    def settled(self) -> bool:
        return self.payload is not None or self.closed_by is not None or self.ignored


class _Routes(dict[str, OnMessage]):
    """The functions to call with the messages of each consumer.

    The broker may send a delivery after its answer to basic.cancel, if it had removed the message
    from the queue before. It must be requeued, or it stays unacknowledged until the connection
    ends.
    """

    def __init__(self, requeue: OnMessage) -> None:
        super().__init__()
        self._requeue = requeue

    def __missing__(self, consumer_tag: str) -> OnMessage:
        return _ignore if consumer_tag.startswith(_NO_ACK) else self._requeue


class Session:
    """See :class:`hbshim.messaging.amqp.connection.Connection`.

    Parameters:
        stream: with its handshake done.
    """

    def __init__(self, stream: Stream) -> None:
        self.name = stream.name
        self.on_channel_closed: OnChannelClosed = ignore_channel_closed
        self.dropped: list[str] = []
        self._last_published = ""
        self._stream = stream
        self._library = library = stream.library
        self._encode_table = library.encode_table
        self._frame_max = library.frame_max
        # For the next `drain`: functions to call, with their arguments.
        self._arrived: deque[tuple[Callable[[Any], object], Any]] = deque()
        # A stopped consumer keeps its route until the broker's answer.
        self._routes = _Routes(self._requeue_late)
        self._consumers: dict[str, OnCancelled | None] = {}
        self._prefetch: int | None = None
        # The broker's delivery tags restart with a new channel; the tags given out do not, so that
        # a tag of a closed channel is recognized.
        self._tag_base = self._last_tag = 0
        self._control_open = False
        self._confirms = Confirms()
        self._answers: dict[int, list[_Answer]] = {DATA: [], CONTROL: []}
        self._decoders = {
            DATA: self._new_decoder(self._routes),
            CONTROL: self._new_decoder({}),
        }
        stream.on_frame, stream.on_end = self._on_frame, self._on_end
        stream.locked(self._open_data)

    def _new_decoder(self, routes: Mapping[str, OnMessage]) -> DeliveryDecoder:
        confirms = self._confirms
        decode = self._library.decode_table
        return DeliveryDecoder(routes, decode, confirms.on_confirm, confirms.on_return)

    @property
    def is_open(self) -> bool:
        return self._stream.is_open

    @property
    def blocked(self) -> bool:
        return self._stream.blocked

    # -- what the broker sends: under the stream's lock -----------------------

    def _on_frame(self, kind: int, channel: int, payload: bytes) -> None:
        decoder = self._decoders.get(channel)
        if decoder is None:
            raise not_amqp(f"a frame on channel {channel}, which is not open")
        if not decoder.receive(kind, payload):
            self._on_method(channel, payload)

    def _on_method(self, channel: int, payload: bytes) -> None:
        method = payload[:4]
        if method == methods.CHANNEL_CLOSE:
            self._on_close(channel, *methods.closed_channel(payload))
        elif method == methods.BASIC_CANCEL:
            self._on_cancel(methods.read_short_string(payload, 4)[0])
        elif method != methods.CHANNEL_OPEN_OK:
            self._on_answer(channel, method, payload)

    def _on_answer(self, channel: int, method: MethodId, payload: bytes) -> None:
        tag = None
        if method in methods.OF_CONSUMERS:
            tag = methods.read_short_string(payload, 4)[0]
        answers = self._answers[channel]
        for answer in answers:
            if methods.ANSWERS[answer.method] == method and answer.consumer_tag == tag:
                answers.remove(answer)
                answer.payload = payload
                answer.on_answer()
                return
        raise not_amqp(f"an unexpected answer: {payload[:20]!r}")

    def _on_cancel(self, consumer_tag: str) -> None:
        """Handle basic.cancel: the broker has ended a consumer, for example of a deleted queue."""
        self._routes.pop(consumer_tag, None)
        on_cancelled = self._consumers.pop(consumer_tag, None)
        if on_cancelled is not None:
            self._arrived.append((on_cancelled, None))

    def _on_close(self, channel: int, code: int, text: str, over: MethodId) -> None:
        self._stream.send(methods.frame(channel, methods.CHANNEL_CLOSE_OK))
        answers, self._answers[channel] = self._answers[channel], []
        published = over == methods.BASIC_PUBLISH
        guilty = [answer for answer in answers if answer.method == over][:1]
        for answer in answers:
            if answer in guilty or not (guilty or published):
                answer.closed_by = (code, text)
            else:
                answer.ignored = True
        if channel == CONTROL:
            self._confirms.end((code, text) if published else None)
            self._open_control()
        else:
            if published and self._last_published:
                # RabbitMQ ignores what follows the message over which it closes the channel.
                self.dropped.append(self._last_published)
            self._on_data_closed(code, text, answers)

    def _on_data_closed(self, code: int, text: str, answers: list[_Answer]) -> None:
        # A consumer that the broker has not handled yet is started again, with its route.
        self._routes.clear()
        consumers, self._consumers = self._consumers, {}
        self._tag_base = self._last_tag
        self._open_data()
        reason = f"closed by the broker: {text} ({code})"
        for answer in answers:
            if answer.method == methods.BASIC_CANCEL:
                # No further delivery arrives.
                answer.on_answer()
        for on_cancelled in consumers.values():
            if on_cancelled is None:
                # The application would not learn that no further delivery arrives.
                error = f"the channel of its consumers was {reason}"
                self._stream.fail(ConnectionAbortedError(error))
            else:
                self._arrived.append((on_cancelled, reason))
        self.on_channel_closed(code, text)

    def _open_data(self) -> None:
        self._stream.send(methods.channel_open(DATA))
        if self._prefetch is not None:
            self._send_method(DATA, methods.basic_qos(DATA, self._prefetch))

    def _open_control(self) -> None:
        self._control_open = True
        self._stream.send(methods.channel_open(CONTROL) + methods.confirm_select(CONTROL))

    def _on_end(self) -> None:
        self._routes.clear()
        self._consumers.clear()

    # -- synchronous methods --------------------------------------------------

    def _ensure_control(self) -> None:
        if not self._control_open:
            self._stream.locked(lambda: None if self._control_open else self._open_control())

    def _call(
        self,
        doing: str,
        frame: bytes,
        deadline: float | None,
        *,
        channel: int = CONTROL,
        consumer_tag: str | None = None,
        on_send: Callable[[], object] | None = None,
        on_answer: Callable[[], None] | None = None,
    ) -> bytes:
        """Call a synchronous method, and return the payload of the answer.

        Parameters:
            doing: what the method does, for errors.
            frame: the method.
            deadline: of ``time.monotonic()``.
            channel: the number of the channel.
            consumer_tag: of the consumer that the method is about.
            on_send: called under the lock each time before the method is sent.
            on_answer: called when the answer arrives, before anything after it is read.
        """
        stream = self._stream
        deadline = answer_by(deadline)
        if channel == CONTROL:
            self._ensure_control()
        while True:
            answer = self._send_method(channel, frame, consumer_tag, on_send, on_answer)
            stream.wait_for(lambda: answer.settled, deadline)  # noqa: B023
            if answer.payload is not None:
                return answer.payload
            if answer.closed_by is not None:
                raise topology_refused(doing, *answer.closed_by)
            if not answer.ignored:
                raise self._unanswered(doing)

    def _send_method(
        self,
        channel: int,
        frame: bytes,
        consumer_tag: str | None = None,
        on_send: Callable[[], object] | None = None,
        on_answer: Callable[[], None] | None = None,
    ) -> _Answer:
        answer = _Answer(frame[7:11], consumer_tag, on_answer or _nothing)

        def send() -> None:
            if on_send is not None:
                on_send()
            self._answers[channel].append(answer)
            self._stream.send(frame)

        self._stream.locked(send)
        return answer

    def _unanswered(self, doing: str) -> Exception:
        blocked = self.blocked
        lost = self._stream.fail(TimeoutError(f"the broker did not {doing} in time"))
        if not blocked:
            return lost
        error = BrokerBlockedError(
            f"{self.name}: the broker reads nothing for now (a memory or disk alarm), and did "
            f"not {doing} in time; try again later"
        )
        error.__cause__ = lost
        return error

    # -- publishing ----------------------------------------------------------

    def publish(
        self,
        message: Message,
        timeout: float | None = None,
        unless: Callable[[], bool] | None = None,
    ) -> bool:
        data = publication(message, DATA, self._frame_max, self._encode_table)
        correlation = message.correlation_id or ""

        def on_written(there: bool) -> None:
            self._last_published = correlation if there else ""

        deadline = _NEVER if timeout is None else _monotonic() + timeout
        return self._stream.write(data, deadline, on_written, unless)

    def publish_confirmed(self, message: Message, timeout: float) -> None:
        stream = self._stream
        deadline = _monotonic() + timeout
        data = publication(message, CONTROL, self._frame_max, self._encode_table, mandatory=True)
        confirm = Confirm(message)
        self._ensure_control()
        stream.write(data, deadline, lambda there: self._confirms.published(confirm, there))
        to = f"exchange {message.exchange!r}, routing key {message.routing_key!r}"
        try:
            settled = stream.wait_for(lambda: confirm.settled, deadline)
        except ConnectionLostError as error:
            raise UnconfirmedError(str(error)) from error
        if not settled:
            raise ConfirmTimeoutError(
                f"{self.name}: the broker did not confirm a message to {to} within {timeout:g} s; "
                "it may have been stored, so send it again only if a duplicate does no harm"
            )
        if confirm.returned is not None:
            raise UnroutableError(
                f"{self.name}: no queue accepts a message to {to} ({confirm.returned}); "
                "declare and bind one"
            )
        if confirm.rejected:
            raise RejectedError(
                f"{self.name}: the broker refused a message to {to} (basic.nack), for "
                "example because a queue is full; try again later"
            )
        if confirm.refused is not None:
            raise topology_refused(f"accept a message to {to}", *confirm.refused)
        if confirm.unknown:
            raise ConfirmTimeoutError(
                f"{self.name}: the channel ended before a message to {to} was confirmed; it may "
                "have been stored, so send it again only if a duplicate does no harm"
            )

    # -- acknowledging -------------------------------------------------------

    def acknowledge(self, tag: int) -> bool:
        return self._settle(acknowledgement, tag)

    def requeue(self, tag: int) -> bool:
        return self._settle(rejection, tag)

    def refuse(self, tag: int) -> bool:
        return self._settle(rejection_without_requeue, tag)

    def _settle(self, frame: Callable[[int, int], bytes], tag: int) -> bool:
        stream = self._stream
        stream.check()
        with stream.lock:
            # Deliveries of a closed channel have been requeued by the broker.
            if tag <= self._tag_base:
                return False
            stream.send(frame(DATA, tag - self._tag_base))
        return True

    # -- exchanges and queues ------------------------------------------------

    def declare_exchange(self, name: str, kind: str, deadline: float | None = None) -> None:
        frame = methods.exchange_declare(CONTROL, name, kind)
        self._call(f"declare exchange {name!r}", frame, deadline)

    def exchange_exists(self, name: str, deadline: float | None = None) -> bool:
        frame = methods.exchange_declare(CONTROL, name, "", passive=True)
        try:
            self._call(f"look up exchange {name!r}", frame, deadline)
        except TopologyError as error:
            if is_missing(error):
                return False
            raise
        return True

    def declare_queue(self, queue: Queue, deadline: float | None = None) -> None:
        try:
            arguments = self._encode_table(queue.declaration())
        except ValueError as error:
            raise PayloadError(
                f"queue {queue.name!r} cannot be declared: AMQP has no type for one of its "
                f"arguments, {queue.declaration()!r}"
            ) from error
        frame = methods.queue_declare(
            CONTROL, queue.name, exclusive=queue.exclusive, arguments=arguments
        )
        self._call(f"declare queue {queue.name!r}", frame, deadline)

    def queue_exists(self, name: str, deadline: float | None = None) -> bool:
        try:
            self._look_up(name, deadline)
        except TopologyError as error:
            if is_missing(error):
                return False
            # A queue that is exclusive to another connection exists, too.
            if error.code != RESOURCE_LOCKED:
                raise
        return True

    def _look_up(self, queue: str, deadline: float | None) -> None:
        frame = methods.queue_declare(CONTROL, queue, passive=True)
        self._call(f"look up queue {queue!r}", frame, deadline)

    def bind(
        self, queue: str, exchange: str, routing_key: str, deadline: float | None = None
    ) -> None:
        frame = methods.queue_bind(CONTROL, queue, exchange, routing_key)
        self._call(f"bind queue {queue!r} to exchange {exchange!r}", frame, deadline)

    def delete_queue(
        self,
        name: str,
        *,
        if_unused: bool = False,
        if_empty: bool = False,
        deadline: float | None = None,
    ) -> int:
        frame = methods.queue_delete(CONTROL, name, if_unused=if_unused, if_empty=if_empty)
        try:
            answer = self._call(f"delete queue {name!r}", frame, deadline)
        except TopologyError as error:
            if is_missing(error):
                return 0
            raise
        return methods.deleted_messages(answer)

    # -- consuming -----------------------------------------------------------

    def set_prefetch(self, count: int, deadline: float | None = None) -> None:
        self._prefetch = count
        frame = methods.basic_qos(DATA, count)
        self._call(f"set the prefetch count to {count}", frame, deadline, channel=DATA)

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
            # Checked on the control channel: an error would end the other consumers.
            self._look_up(queue, deadline)
        tag = _new_consumer_tag(acknowledged)
        arguments = self._encode_table({"x-priority": priority} if priority else {})
        frame = methods.basic_consume(
            DATA, queue, tag, acknowledged=acknowledged, arguments=arguments
        )
        route = self._route(on_delivery)

        def on_send() -> None:
            # When the method is sent, not before: the broker may close the channel in between, and
            # a channel that is opened again has no routes.
            self._routes[tag] = route

        def on_answer() -> None:
            self._consumers[tag] = on_cancelled

        self._call(
            f"consume from queue {queue!r}",
            frame,
            deadline,
            channel=DATA,
            consumer_tag=tag,
            on_send=on_send,
            on_answer=on_answer,
        )
        return tag

    def start_consumer(
        self,
        queue: str,
        on_delivery: OnDelivery,
        *,
        on_cancelled: OnCancelled,
    ) -> str:
        tag = _new_consumer_tag(True)
        frame = methods.basic_consume(DATA, queue, tag, acknowledged=True, no_wait=True)

        def start() -> None:
            self._routes[tag] = self._route(on_delivery)
            self._consumers[tag] = on_cancelled
            self._stream.send(frame)

        self._stream.locked(start)
        return tag

    def _route(self, on_delivery: OnDelivery) -> OnMessage:
        arrived = self._arrived

        def on_message(message: Delivery) -> None:
            message.connection = self
            self._last_tag = message.tag = self._tag_base + message.tag
            arrived.append((on_delivery, message))

        return on_message

    def _requeue_late(self, message: Delivery) -> None:
        self._stream.send(rejection(DATA, message.tag))

    def cancel(self, consumer_tag: str, deadline: float | None = None) -> None:
        self._stream.check()
        if consumer_tag not in self._consumers:
            return
        self._call(
            f"cancel consumer {consumer_tag!r}",
            methods.basic_cancel(DATA, consumer_tag),
            deadline,
            channel=DATA,
            consumer_tag=consumer_tag,
            on_send=lambda: self._consumers.pop(consumer_tag, None),
            on_answer=lambda: _forget(self._routes, consumer_tag),
        )

    def stop_consumer(
        self,
        consumer_tag: str,
        on_stopped: Callable[[], None] | None = None,
    ) -> None:
        def on_answer() -> None:
            self._routes.pop(consumer_tag, None)
            if on_stopped is not None:
                # After earlier deliveries.
                self._arrived.append((lambda _: on_stopped(), None))

        self._stream.check()
        if consumer_tag in self._consumers:
            self._send_method(
                DATA,
                methods.basic_cancel(DATA, consumer_tag),
                consumer_tag,
                lambda: self._consumers.pop(consumer_tag, None),
                on_answer,
            )

    # -- waiting, and the end --------------------------------------------------

    def drain(self, timeout: float) -> None:
        arrived = self._arrived
        self._stream.receive_into(arrived, timeout)
        try:
            for _ in range(len(arrived)):
                try:
                    call, argument = arrived.popleft()
                except IndexError:
                    return  # another draining thread was faster
                call(argument)
        except Exception:
            raise  # such as one of a consumer's function, which has what it was given
        except BaseException:
            # It may be lost, as the reply to the call of another thread: over the next connection
            # it comes again.
            self._stream.fail(ConnectionAbortedError("a call on it was interrupted"))
            raise

    def begin_wait(self, part: Part) -> bool:
        """See :meth:`hbshim.messaging.polling.Pollable.begin_wait`."""
        arrived, stream = self._arrived, self._stream
        return stream.begin_wait(part, lambda: arrived or stream.woken)

    def wake(self) -> None:
        self._stream.wake()

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        self._stream.close(timeout)


def _new_consumer_tag(acknowledged: bool) -> str:
    return f"{_ACK if acknowledged else _NO_ACK}{uuid.uuid4().hex}"


def _forget(routes: dict[str, OnMessage], consumer_tag: str) -> None:
    routes.pop(consumer_tag, None)


def _ignore(*_arguments: Any) -> None:
    return None


def _nothing() -> None:
    return None
