"""One AMQP 1.0 connection of the messaging driver.

Any thread may call any method; one at a time calls :meth:`Connection.drain`. All errors are of
:mod:`hbshim.errors`.

Longer than others: what threads ask for and what the engine reports change one state.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hbshim.amqp1.connection import Connection as Engine
from hbshim.amqp1.delivery import Delivery as EngineDelivery
from hbshim.amqp1.errors import ProtocolError
from hbshim.amqp1.events import (
    Attached,
    AttachRequested,
    CreditChanged,
    CreditUsed,
    Detached,
    Drained,
    Ended,
    Event,
    Opened,
    Received,
    Updated,
)
from hbshim.amqp1.performatives import (
    Accepted,
    DeliveryState,
    Error,
    Modified,
    Rejected,
    Released,
    Source,
    Target,
)
from hbshim.amqp1.session import Session
from hbshim.amqp1.states import LinkState
from hbshim.amqp1.values import Int, Symbol
from hbshim.errors import BrokerBlockedError, ConnectionLostError, PayloadError
from hbshim.heartbeat import service
from hbshim.heartbeat.link import Link
from hbshim.messaging.amqp1.attaching import Attaching
from hbshim.messaging.amqp1.content import decode, encode
from hbshim.messaging.amqp1.links import IncomingLink, OpenLink, OutgoingLink
from hbshim.messaging.amqp1.outcomes import COPY_REFUSED, OnOutcome, Outcome
from hbshim.messaging.amqp1.profiles import Profile
from hbshim.messaging.amqp1.received import Held
from hbshim.messaging.amqp1.stream import EngineStream, described
from hbshim.messaging.joining import Part
from hbshim.protocol.messages import Delivery, Message

#: The most sessions for links that receive; RabbitMQ allows 64 of each connection.
MOST_SESSIONS = 16

#: The most links for messages that are sent. A router lets each have 250 messages that are not
#: settled, and a call that runs for long is one of them.
MOST_SENDERS = 32

#: The most unconfirmed messages to one address of a router that no receiver has taken. Without a
#: limit, those to one slow receiver would use up the credit of all links, and hold up the others.
MOST_UNCONFIRMED = 1000

#: Seconds that closing waits for the peer.
CLOSE_TIMEOUT = 1.0

_monotonic = time.monotonic


class Publication:
    """A message that was written."""

    __slots__ = ("_connection", "_delivery", "_link")

    def __init__(
        self, connection: Connection, link: OutgoingLink, delivery: EngineDelivery
    ) -> None:
        self._connection = connection
        self._link = link
        self._delivery = delivery

    @property
    def settled(self) -> bool:
        """Whether its outcome is final, or there will be none."""
        return self._delivery.settled

    def withdraw(self) -> None:
        """End the interest in its outcome, which is not reported after that.

        A router then withdraws the message, unless it is settled.

        Raises:
            ConnectionLostError: the connection has ended.
        """
        self._connection.withdraw(self._link, self._delivery)

    def got_reply(self) -> None:
        """Note that it is a request, and has its reply."""
        if not self._delivery.settled:
            self._link.got_reply(self._delivery)


class _Sending(NamedTuple):
    """What is sent, and how; see :meth:`Connection.publish`."""

    message: Message
    resent: int
    awaited: bool
    follow: bool
    wakes: bool
    on_sent: Callable[[EngineDelivery], None] | None


class Connection:
    """See the module.

    Parameters:
        stream: open.

    Attributes:
        name: host and port, for messages; without credentials.
        profile: of the peer.
        attaching: its sessions and links.
    """

    def __init__(self, stream: EngineStream, profile: Profile) -> None:
        self.name = stream.name
        self.profile = profile
        self._stream = stream
        self.attaching = Attaching(stream)
        self._senders: list[OutgoingLink] = []
        self._numbers = itertools.count(1)
        self._tags = itertools.count(1)
        self._held: dict[int, Held] = {}
        # For the next `drain`: functions to call.
        self._arrived: deque[Callable[[], None]] = deque()
        # By the address, a token for each.
        self._unconfirmed: dict[str, set[object]] = {}
        # Deliveries to accept with what is sent next, at the end of `drain` at the latest.
        self._to_accept: deque[int] = deque()
        stream.on_events, stream.on_end = self._on_events, self._on_end

    @property
    def opened(self) -> Opened:
        """What the peer sent to open it."""
        assert self._stream.opened is not None, "it is open"
        return self._stream.opened

    @property
    def link(self) -> Link | None:
        """What keeps it alive; None if hbshim cannot, and the driver does."""
        return self._stream.link

    @property
    def is_open(self) -> bool:
        """Whether it is open, as far as this side knows; the peer is not asked."""
        return self._stream.is_open

    # -- what arrives: under the stream's lock -----------------------------------

    def _on_events(self, events: Sequence[Event]) -> None:
        for event in events:
            self._on_event(event)
        # Not before: the links have used the credit of all of them already.
        for receiver in {each.link for each in events if isinstance(each, Received | CreditUsed)}:
            link = self.attaching.by_link.get(receiver)
            if isinstance(link, IncomingLink):
                link.replenish()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Received):
            self._on_received(event)
        elif isinstance(event, Updated):
            sender = self.attaching.by_link.get(event.link)
            if isinstance(sender, OutgoingLink) and sender.update(event.delivery):
                self._arrived.append(_nothing)
        elif isinstance(event, Drained):
            receiver = self.attaching.by_link.get(event.link)
            if isinstance(receiver, IncomingLink):
                receiver.drained()
        elif isinstance(event, Attached):
            self.attaching.by_link[event.link].attached = True
        elif isinstance(event, Detached):
            link = self.attaching.end_link(event.link, event.error)
            self._on_link_ended(link, event.error)
        elif isinstance(event, Ended):
            for link in self.attaching.end_session(event.session, event.error):
                self._on_link_ended(link, event.error)
        # Frames behind the one that this event is about may have ended the link.
        elif isinstance(event, CreditChanged):
            sender = self.attaching.by_link.get(event.link)
            if isinstance(sender, OutgoingLink) and event.credit:
                sender.had_credit = True
            if event.drain and event.link.state is LinkState.ATTACHED:
                event.link.drained()
        elif isinstance(event, AttachRequested) and event.link.state is LinkState.ATTACH_RECEIVED:
            event.link.refuse(Error("amqp:not-implemented", "this side attaches all links"))

    def _on_received(self, event: Received) -> None:
        link = self.attaching.by_link.get(event.link)
        if not isinstance(link, IncomingLink):
            return
        tag, delivery = next(self._tags), event.delivery
        if not (delivery.settled and link.immediate):
            self._held[tag] = Held(link, delivery)
        link.received()
        if link.immediate:
            link.on_delivery(delivery.payload, tag)
        else:
            self._arrived.append(lambda: link.on_delivery(delivery.payload, tag))

    def _on_link_ended(self, link: OpenLink[Any] | None, error: Error | None) -> None:
        if isinstance(link, IncomingLink):
            for tag in [tag for tag, found in self._held.items() if found.link is link]:
                del self._held[tag]
            reason = "the peer ended the link" if error is None else described(error)
            self._arrived.append(lambda: link.on_end(reason))

    def _on_end(self) -> None:
        self.attaching.end()
        self._held.clear()

    # -- sending ---------------------------------------------------------------------

    def publish(
        self,
        message: Message,
        deadline: float,
        on_outcome: OnOutcome,
        *,
        resent: int = 0,
        awaited: bool = False,
        follow: bool = False,
        unconfirmed: bool = False,
        wakes: bool = True,
        on_sent: Callable[[EngineDelivery], None] | None = None,
    ) -> Publication:
        """Send a message, and return when it is written.

        An error means that the peer has not received the whole message, and ignores it.

        Parameters:
            message: the message.
            deadline: of ``time.monotonic()``.
            on_outcome: called with what becomes of it, by the thread that drains or that finds the
                connection lost. It must not wait.
            resent, awaited: see :func:`hbshim.messaging.amqp1.content.encode`.
            follow: `accepted` is not the end: the loss of its receiver is reported, too.
            unconfirmed: its sender does not wait for its outcome; see :data:`MOST_UNCONFIRMED`.
            wakes: its outcome ends a :meth:`drain`, because a thread waits for it.
            on_sent: called under the stream's lock; what it sends leaves in the same write.

        Raises:
            PayloadError: it is larger than the peer accepts.
            BrokerBlockedError: the peer accepts no message by `deadline`.
            ConnectionLostError: the connection has ended.
        """
        profile = self.profile
        sending = _Sending(message, resent, awaited, follow, wakes and not unconfirmed, on_sent)
        if not (unconfirmed and profile.routes):
            return self._publish(sending, deadline, on_outcome)
        address, token = profile.destination(message.exchange, message.routing_key), object()

        def end(outcome: Outcome, reason: str) -> None:
            self._release(address, token)
            on_outcome(outcome, reason)

        try:
            self._reserve(address, token, deadline)
            sent = self._publish(sending, deadline, end)
        except BaseException:
            self._release(address, token)
            raise
        if sent.settled:
            # Perhaps as it was sent: then no outcome follows.
            self._release(address, token)
        return sent

    def _reserve(self, address: str, token: object, deadline: float) -> None:
        """Count an unconfirmed message, when few enough are under way to its address."""

        def is_room() -> bool:
            return len(self._unconfirmed.get(address, ())) < MOST_UNCONFIRMED

        if not self._stream.wait_for(is_room, deadline):
            raise self._blocked(
                f"has {MOST_UNCONFIRMED} messages to {address} that no receiver has taken"
            )
        with self._stream.lock:
            self._unconfirmed.setdefault(address, set()).add(token)

    def _release(self, address: str, token: object) -> None:
        """Count it no longer; idempotent."""
        with self._stream.lock:
            tokens = self._unconfirmed.get(address, set())
            tokens.discard(token)
            if not tokens:
                self._unconfirmed.pop(address, None)

    def _publish(self, sending: _Sending, deadline: float, on_outcome: OnOutcome) -> Publication:
        stream, profile = self._stream, self.profile
        while True:
            link = self._sending_link(deadline)
            if link is None:
                raise self._blocked("gives no credit")
            if stream.unsent and not stream.flush(deadline):
                raise self._blocked("reads nothing")

            def send(engine: Engine, link: OutgoingLink = link) -> EngineDelivery | None:
                stream.read_waiting()
                self._accept(engine)
                if link.ended or not link.ready or stream.unsent:
                    return None
                data = encode(
                    sending.message, profile, resent=sending.resent, awaited=sending.awaited
                )
                delivery = link.send(data, on_outcome, follow=sending.follow, wakes=sending.wakes)
                if sending.on_sent is not None:
                    sending.on_sent(delivery)
                return delivery

            delivery = stream.work(send)
            if delivery is not None:
                try:
                    self._write_whole(link, delivery, deadline)
                except BaseException:
                    # The caller is interrupted: what is left of it is sent and then withdrawn.
                    self.withdraw(link, delivery)
                    raise
                return Publication(self, link, delivery)

    def _sending_link(self, deadline: float) -> OutgoingLink | None:
        """Return a link that has credit; None if there is none by `deadline`."""
        while True:
            for link in self._senders:
                if link.ready and not link.ended:
                    return link
            self._stream.work(self._settle_replied)
            if self._needs_sender():
                self.attaching.attach("send", self._attach_sender, "accept messages", deadline)
            elif not self._stream.wait_for(self._may_send, deadline):
                return None

    def _settle_replied(self, _engine: Engine) -> None:
        for link in self._senders:
            link.settle_replied()

    def _needs_sender(self) -> bool:
        links = [each for each in self._senders if not each.ended]
        if not links:
            return True
        # A broker that gives no credit wants no more messages; a router counts those of a link.
        return (
            self.profile.routes
            and len(links) < MOST_SENDERS
            and all(each.had_credit and not each.link.credit for each in links)
        )

    def _attach_sender(self, session: Session, name: str) -> OutgoingLink:
        if not self._needs_sender():
            return self._senders[-1]
        # Without a target: each message names its own.
        link = OutgoingLink(session.attach_sender(name, Target()), session)
        self._senders = [*(each for each in self._senders if not each.ended), link]
        return link

    def _may_send(self) -> bool:
        return self._needs_sender() or any(each.ready for each in self._senders)

    def _write_whole(self, link: OutgoingLink, delivery: EngineDelivery, deadline: float) -> None:
        """Wait until a message has left; end the connection if a part of it has not by then."""
        stream = self._stream
        if delivery.complete and not stream.unsent:
            return
        if not stream.wait_for(lambda: delivery.complete or link.ended, deadline):
            raise stream.fail(TimeoutError("the peer accepted only a part of a message in time"))
        if not delivery.complete:
            raise ConnectionLostError(
                f"{self.name}: the link ended within a message; send it again"
            )
        if not stream.flush(deadline):
            raise stream.fail(TimeoutError("the peer accepted only a part of a message in time"))

    def withdraw(self, link: OutgoingLink, delivery: EngineDelivery) -> None:
        """See :meth:`Publication.withdraw`."""
        # A delivery that is settled by both sides is not used any more.
        if not self.is_open or delivery.settled:
            return
        if self.profile.routes:
            self._stream.work(lambda _: link.settle(delivery))
        else:
            # RabbitMQ would end the session, with the messages of all callers in it.
            self._stream.work(lambda _: link.forget(delivery))

    def _blocked(self, how: str) -> BrokerBlockedError:
        return BrokerBlockedError(
            f"{self.name}: the peer {how}, and did not in time (a memory or disk alarm, or "
            "overload?); nothing was sent: try again later, and check its log"
        )

    def check_address(self, address: str, deadline: float) -> None:
        """Have the peer check that a message may be sent to an address.

        Raises:
            TopologyError: it may not.
        """
        link = self.attaching.attach(
            "check",
            lambda session, name: OutgoingLink(
                session.attach_sender(name, Target(address)), session
            ),
            f"accept messages to {address}",
            deadline,
        )
        self._stream.work(lambda _: None if link.ended else link.link.detach())

    # -- receiving -------------------------------------------------------------------

    def receive_from(
        self,
        address: str,
        prefetch: int,
        on_delivery: Callable[[Delivery], None],
        on_end: Callable[[str], None],
        deadline: float,
        *,
        priority: int = 0,
    ) -> IncomingLink:
        """Receive messages; :meth:`drain` calls `on_delivery` with them.

        Parameters:
            address: of the queue.
            prefetch: the most messages that are not settled; 0: any number.
            on_delivery: called with each message.
            on_end: called from :meth:`drain` with the reason when the peer ends the link; what was
                not settled is requeued then.
            deadline: of ``time.monotonic()``.
            priority: of this consumer among those of the queue.

        Raises:
            TopologyError: there is no such queue, or it may not be read.
        """
        properties = {Symbol("rabbitmq:priority"): Int(priority)} if priority else None
        profile = self.profile

        def decode_and_deliver(data: bytes, tag: int) -> None:
            try:
                delivery = decode(data, profile, self, tag)
            except (ProtocolError, PayloadError) as error:
                detail = f"a message of {address} cannot be read: {error}"
                service.current().metrics.record("message-rejected", self.name, detail)
                self.refuse(tag)
            else:
                on_delivery(delivery)

        def make(session: Session, name: str) -> IncomingLink:
            link = session.attach_receiver(name, Source(address), properties=properties)
            found = IncomingLink(link, session, prefetch, decode_and_deliver, on_end)
            found.replenish()
            return found

        session_name = f"receive-{next(self._numbers) % MOST_SESSIONS}"
        return self.attaching.attach(session_name, make, f"deliver messages of {address}", deadline)

    def pause(self, links: list[IncomingLink], deadline: float) -> None:
        """Receive nothing more over `links`, until :meth:`resume`; wait for what is under way."""

        def pause(_engine: Engine) -> None:
            for link in links:
                link.pause()

        self._stream.work(pause)
        self._stream.wait_for(lambda: all(link.quiet for link in links), deadline)

    def resume(self, link: IncomingLink) -> None:
        """Receive again."""
        self._stream.work(lambda _: link.resume())

    def acknowledge(self, tag: int) -> bool:
        """Settle a delivery as accepted, without waiting.

        Returns:
            False if its link has ended, so that the peer has requeued it.
        """
        return self._settle(tag, Accepted())

    def acknowledge_soon(self, tag: int) -> None:
        """Do the same at the end of :meth:`drain`, which calls what calls this method."""
        self._to_accept.append(tag)

    def _accept(self, _engine: Engine) -> None:
        while self._to_accept:
            found = self._held.pop(self._to_accept.popleft(), None)
            if found is not None:
                found.settle(Accepted())

    def requeue(self, tag: int) -> bool:
        """Give a delivery back; returns as :meth:`acknowledge` does."""
        return self._settle(tag, Released())

    def refuse(self, tag: int) -> bool:
        """Reject a delivery: the broker drops or dead-letters it. Returns as above."""
        return self._settle(tag, Rejected())

    def give_back(self, tag: int) -> bool:
        """Give a delivery back as one that may have been processed. Returns as above."""
        return self._settle(tag, Modified(delivery_failed=True))

    def refuse_copy(self, tag: int) -> bool:
        """Reject a delivery because another receiver may have begun it. Returns as above."""
        reason = "another server has received it before, and may have run it"
        return self._settle(tag, Rejected(Error(COPY_REFUSED, reason)))

    def begin(self, tag: int) -> bool:
        """Accept a delivery that is to be settled later; another one may arrive meanwhile.

        Until it is settled, its sender learns if this side is gone. Returns as above.
        """

        def begin(_engine: Engine) -> bool:
            found = self._held.get(tag)
            if found is None:
                return False
            found.begin()
            return True

        return self._stream.work(begin)

    def is_withdrawn(self, tag: int) -> bool:
        """Return whether the sender of a delivery wants it no more."""

        def check(_engine: Engine) -> bool:
            self._stream.read_waiting()
            found = self._held.get(tag)
            return found is not None and found.withdrawn

        return self._stream.work(check)

    def _settle(self, tag: int, state: DeliveryState) -> bool:
        def settle(_engine: Engine) -> bool:
            found = self._held.pop(tag, None)
            if found is None:
                return False
            found.settle(state)
            return True

        return self._stream.work(settle)

    # -- waiting, and the end --------------------------------------------------------

    def drain(self, timeout: float) -> None:
        """Receive what the peer sends: call the functions of links and messages.

        Returns after the first batch, when :meth:`wake` is called, or after `timeout` seconds.
        """
        arrived = self._arrived
        self._stream.receive_into(arrived, timeout)
        try:
            for _ in range(len(arrived)):
                try:
                    call = arrived.popleft()
                except IndexError:
                    break  # another draining thread was faster
                call()
        except Exception:
            raise
        except BaseException:
            # What it was given is lost: it comes again over the next connection.
            self._stream.fail(ConnectionAbortedError("a call on it was interrupted"))
            raise
        if self._to_accept:
            self._stream.work(self._accept)

    def call_later(self, call: Callable[[], None]) -> None:
        """Have the next :meth:`drain` call a function; called under the stream's lock."""
        self._arrived.append(call)

    def wait_for(self, condition: Callable[[], object], deadline: float) -> bool:
        """Read until `condition` is true; return False if it is not by `deadline`."""
        return self._stream.wait_for(condition, deadline)

    def check(self) -> None:
        """Raise ConnectionLostError unless it is open and belongs to this process."""
        self._stream.check()

    def work(self, call: Callable[[Engine], Any]) -> Any:
        """See :meth:`hbshim.messaging.amqp1.stream.EngineStream.work`."""
        return self._stream.work(call)

    def begin_wait(self, part: Part) -> bool:
        """See :meth:`hbshim.messaging.polling.Pollable.begin_wait`."""
        arrived, stream = self._arrived, self._stream
        return stream.begin_wait(part, lambda: arrived or stream.woken)

    def wake(self) -> None:
        """End the current :meth:`drain`, or else the next one."""
        self._stream.wake()

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Close; never raises.

        Parameters:
            timeout: seconds to wait for the peer's answer.
        """
        self._stream.close(timeout)


def _nothing() -> None:
    return None
