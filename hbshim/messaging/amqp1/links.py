"""The links of a connection, and what is under way on each. Used under the connection's lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from hbshim.amqp1.delivery import Delivery
from hbshim.amqp1.link import Link
from hbshim.amqp1.performatives import Error, Rejected
from hbshim.amqp1.receiver import Receiver
from hbshim.amqp1.sender import Sender
from hbshim.amqp1.session import Session
from hbshim.messaging.amqp1.outcomes import OnOutcome, Outcome, outcome_of
from hbshim.messaging.amqp1.stream import described

L = TypeVar("L", bound=Link)

#: The credit of a link whose receiver sets no limit.
UNLIMITED = 1000

#: Requests with a reply that their receivers may leave unsettled; a router lets a link have 250
#: messages that are not settled.
MOST_REPLIED = 50


class OpenLink(Generic[L]):
    """A link that this side attaches.

    Attributes:
        link: the engine's.
        session: its session.
        attached: the peer has accepted it.
        ended: it is over.
        error: why the peer ended it; None if it gave no reason.
    """

    def __init__(self, link: L, session: Session) -> None:
        self.link = link
        self.session = session
        self.attached = False
        self.ended = False
        self.error: Error | None = None

    @property
    def answered(self) -> bool:
        """Whether the peer has accepted or refused it."""
        return self.attached or self.ended

    def end(self, error: Error | None) -> None:
        """Note that it is over."""
        self.ended = True
        self.error = error


class _Sent:
    """A message whose outcome is not known, or not final."""

    __slots__ = ("accepted", "follow", "on_outcome", "wakes")

    def __init__(self, on_outcome: OnOutcome, *, follow: bool, wakes: bool) -> None:
        self.on_outcome = on_outcome
        self.follow = follow
        self.wakes = wakes
        self.accepted = False


class OutgoingLink(OpenLink[Sender]):
    """A link that sends."""

    def __init__(self, link: Sender, session: Session) -> None:
        super().__init__(link, session)
        #: The peer has given it credit before.
        self.had_credit = False
        self._sent: dict[Delivery, _Sent] = {}
        self._replied: deque[Delivery] = deque()

    @property
    def ready(self) -> bool:
        """Whether the peer accepts a message now."""
        return self.link.credit > 0 and self.session.peer_window > 0

    def send(
        self, data: bytes, on_outcome: OnOutcome, *, follow: bool = False, wakes: bool = True
    ) -> Delivery:
        """Send a message.

        Parameters:
            data: the encoded message.
            on_outcome, wakes: see :meth:`hbshim.messaging.amqp1.connection.Connection.publish`.
            follow: it stays unsettled after `accepted`, so that this side learns if its receiver is
                lost; otherwise it is settled then.

        Raises:
            PayloadError: the peer does not accept so large a message.
        """
        self.settle_replied(MOST_REPLIED)
        delivery = self.link.send(data)
        if not delivery.settled:
            self._sent[delivery] = _Sent(on_outcome, follow=follow, wakes=wakes)
        return delivery

    def got_reply(self, delivery: Delivery) -> None:
        """Note that a request has its reply; called by any thread.

        Its receiver settles it as a rule. One that never does would use up the credit of the link.
        """
        self._replied.append(delivery)

    def settle_replied(self, most: int = 0) -> None:
        """Settle the oldest requests that have their reply, all but so many."""
        while len(self._replied) > most:
            self.settle(self._replied.popleft())

    def update(self, delivery: Delivery) -> bool:
        """Handle what the peer reports of a message; return whether a thread may wait for it."""
        sent = self._sent.get(delivery)
        if sent is None:
            return False
        # Both states may have arrived before the event about the first one is handled.
        outcome = outcome_of(delivery.state, accepted=sent.accepted or delivery.was_accepted)
        if outcome is Outcome.UNKNOWN and not delivery.settled:
            return False  # no outcome: how much of it has arrived
        known = sent.accepted and outcome is Outcome.ACCEPTED
        if delivery.settled:
            del self._sent[delivery]
        elif sent.follow and outcome is Outcome.ACCEPTED:
            sent.accepted = True
        else:
            # Its receiver may wait for that (rcv-settle-mode second).
            self.settle(delivery)
        if known:
            return False
        state = delivery.state
        error = state.error if isinstance(state, Rejected) else None
        sent.on_outcome(outcome, "" if error is None else described(error))
        # What is followed has its reply after that.
        return sent.wakes and not (sent.follow and outcome is Outcome.ACCEPTED)

    def forget(self, delivery: Delivery) -> None:
        """Ignore further outcomes of a message; the peer is not notified."""
        self._sent.pop(delivery, None)

    def settle(self, delivery: Delivery) -> None:
        """Want to hear no more of a message: its receiver learns that, too."""
        if self._sent.pop(delivery, None) is not None and not self.ended:
            self.link.settle(delivery)

    def end(self, error: Error | None) -> None:
        super().end(error)
        sent, self._sent = self._sent, {}
        reason = "" if error is None else described(error)
        for each in sent.values():
            each.on_outcome(Outcome.UNKNOWN, reason)


class IncomingLink(OpenLink[Receiver]):
    """A link that receives.

    Parameters:
        prefetch: the most messages that are held; 0: any number.
        on_delivery: called with the payload of each message, and its tag.
        on_end: called when the link is over, with the reason.
        immediate: `on_delivery` is called under the lock, not by a thread that drains.
    """

    def __init__(
        self,
        link: Receiver,
        session: Session,
        prefetch: int,
        on_delivery: Callable[[bytes, int], None],
        on_end: Callable[[str], None],
        *,
        immediate: bool = False,
    ) -> None:
        super().__init__(link, session)
        self.immediate = immediate
        self.on_delivery = on_delivery
        self.on_end = on_end
        #: The messages that count for the prefetch.
        self.held = 0
        self._prefetch = prefetch
        self._paused = self._draining = False

    @property
    def quiet(self) -> bool:
        """Whether nothing arrives any more, once it is paused."""
        return self.ended or not self._draining

    def received(self) -> None:
        """Note that a message has arrived; :meth:`replenish` follows when all are noted."""
        self.held += 1

    def release(self) -> None:
        """Let another message arrive in place of one."""
        self.held -= 1
        self.replenish()

    def replenish(self) -> None:
        """Have the peer send what may arrive."""
        if self._paused or self._draining or self.ended:
            return
        most, held = self._prefetch, self.held
        if not most:
            most, held = UNLIMITED, 0
        credit = self.link.credit
        if credit <= most // 2 and credit + held < most:
            self.link.grant(most - held - credit)

    def pause(self) -> None:
        """Have the peer return its credit: nothing arrives once :attr:`quiet` is true."""
        self._paused = True
        if self.link.credit and not self._draining and not self.ended:
            self._draining = True
            self.link.drain()

    def drained(self) -> None:
        """Note that the peer has returned its credit."""
        self._draining = False
        self.replenish()

    def resume(self) -> None:
        """Receive again."""
        self._paused = False
        self.replenish()
