"""Sends casts, notifications and replies, and acts by the table of outcomes.

See :mod:`hbshim.messaging.amqp1.outcomes`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias, TypeVar

from hbshim.errors import (
    CallTimeoutError,
    ConfirmTimeoutError,
    ConnectionLostError,
    MessagingError,
    RejectedError,
    UnconfirmedError,
    UnroutableError,
)
from hbshim.heartbeat import service
from hbshim.messaging.amqp.topology import Declaring, Subscription
from hbshim.messaging.amqp1.connection import Publication
from hbshim.messaging.amqp1.options import Amqp1Options
from hbshim.messaging.amqp1.outcomes import TABLE, Action, Outcome, Pattern
from hbshim.messaging.amqp1.prepared import Prepared
from hbshim.messaging.amqp1.profiles import Profile
from hbshim.messaging.amqp1.shared import SharedConnection
from hbshim.messaging.backoff import TOO_LITTLE, pauses
from hbshim.messaging.connecting import may_connect_yet
from hbshim.messaging.role import Waiter
from hbshim.protocol.messages import Message

T = TypeVar("T")

#: Makes a message for a kind of peer, and what it is to be stored in, if that is declared.
Make: TypeAlias = Callable[[Profile], "tuple[Message, Subscription | None]"]

#: What the peer has done with a message that nothing sends again.
_PARTICIPLES = {
    Outcome.RELEASED: "released, as no queue or server accepts it",
    Outcome.FAILED: "given back, or lost with its server",
    Outcome.REJECTED: "rejected",
}

#: Seconds of the first and of the longest pause before what was released is sent again.
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5

#: Seconds that the last attempt has at least.
LAST_ATTEMPT = 0.2

#: The longest pause, in seconds, before a notification is sent again that a listener gave back.
LONGEST_RETRY_PAUSE = 60.0


class Confirmation(Waiter):
    """Waits for the outcome of a message.

    Attributes:
        outcome: None before it is known.
        reason: of the peer, if it gave one.
    """

    __slots__ = ("outcome", "reason")

    def __init__(self) -> None:
        super().__init__()
        self.outcome: Outcome | None = None
        self.reason = ""

    @property
    def ready(self) -> bool:
        return self.outcome is not None

    def set(self, outcome: Outcome, reason: str) -> None:
        """Note the outcome."""
        if self.outcome is None:
            self.outcome, self.reason = outcome, reason
            self.notify()


class Sender:
    """See the module.

    Parameters:
        shared: returns the connection of this process.
        options: those of the driver.
    """

    def __init__(self, shared: Callable[[], SharedConnection], options: Amqp1Options) -> None:
        self._shared = shared
        self._options = options

    def send(
        self,
        make: Make,
        pattern: Pattern,
        deadline: float,
        attempts: int | None,
        *,
        wait: bool = True,
        mandatory: bool = False,
    ) -> None:
        """Send a message, and return when it is done.

        Parameters:
            make: makes the message. The queue beside it is declared if it does not exist.
            pattern: what it is sent for.
            deadline: of ``time.monotonic()``, for everything.
            attempts: the most attempts to connect, and to send again what a lost connection took
                with it; None: as many as the deadline allows.
            wait: wait for the outcome; otherwise return when it is written.
            mandatory: fail at once if it is released, and if its outcome stays unknown.

        Raises:
            ConnectError, ConnectionLostError, BrokerBlockedError: it was not sent.
            UnroutableError: no queue, or no server, has accepted it.
            RejectedError: the peer refused it.
            ConfirmTimeoutError: its outcome was not known by the deadline.
            PayloadError, TopologyError, UnsupportedError: it cannot be sent.
        """
        _Sending(self._shared(), self._options, make, pattern, deadline, attempts).run(
            wait=wait, mandatory=mandatory
        )

    def send_confirmed(
        self,
        message: Message,
        subscription: Subscription | None,
        deadline: float,
        attempts: int | None,
    ) -> None:
        """Send a message that a queue is to store; see :meth:`send`."""
        self.send(
            lambda _: (message, subscription),
            Pattern.NOTIFY,
            deadline,
            attempts,
            mandatory=subscription is None,
        )

    def declare(self, work: Callable[[Declaring], None], deadline: float) -> None:
        """Call `work` with the management of the connection, and retry it until the deadline."""
        self.with_connection(lambda prepared: work(prepared.management), deadline)

    def with_connection(
        self, work: Callable[[Prepared], T], deadline: float, attempts: int | None = None
    ) -> T:
        """Call `work` with the connection, for example to declare a queue, and retry it.

        Parameters:
            work: is called with the connection. It must pass `deadline` on.
            deadline: of ``time.monotonic()``, for everything.
            attempts: the most attempts; None: as many as the deadline allows.
        """
        shared = self._shared()
        retries = _Attempts(attempts, self._options.connection_retry_delay, deadline)
        while True:
            prepared: Prepared | None = None
            try:
                prepared = shared.connected(deadline, 1)
                return work(prepared)
            except MessagingError as error:
                retries.failed(error, prepared)


class _Attempts:
    """Counts attempts at which a message was not sent."""

    def __init__(self, most: int | None, delay: float, deadline: float) -> None:
        self._most = most
        self._pauses: Iterator[float] = pauses(delay)
        self._deadline = deadline
        self._count = 0

    def failed(self, error: MessagingError, prepared: Prepared | None) -> None:
        """Wait until the next attempt.

        Raises:
            MessagingError: `error`, if there is none.
        """
        if not (isinstance(error, ConnectionLostError) or may_connect_yet(error)):
            raise error
        if prepared is not None and prepared.used and not self._count:
            # It was lost while nothing used it.
            prepared.used = False
        else:
            self._count += 1
        if self._most is not None and self._count >= self._most:
            raise error
        left = self._deadline - time.monotonic()
        if left <= TOO_LITTLE:
            raise error
        if self._count:
            time.sleep(min(next(self._pauses), left - TOO_LITTLE))


class _Sending:
    """One message, until its outcome is known."""

    def __init__(
        self,
        shared: SharedConnection,
        options: Amqp1Options,
        make: Make,
        pattern: Pattern,
        deadline: float,
        attempts: int | None,
    ) -> None:
        self._shared = shared
        self._options = options
        self._make = make
        self._made_for: Profile | None = None
        self._message: Message | None = None
        self._subscription: Subscription | None = None
        self._pattern = pattern
        self._deadline = deadline
        self._attempts = _Attempts(attempts, options.connection_retry_delay, deadline)
        self._pause = FIRST_PAUSE
        self._resent = 0
        self._began = time.monotonic()
        self._refusals = 0
        self._was_released = False
        # When the latest attempt had a connection, and the seconds that it took from then on.
        self._connected = self._took = 0.0

    def run(self, *, wait: bool, mandatory: bool) -> None:
        """Send it until it is done."""
        while True:
            prepared, confirmation, publication = self._publish(wait=wait)
            if not wait:
                return
            outcome = self._outcome(confirmation, publication)
            self._took = time.monotonic() - self._connected
            action = TABLE[outcome][self._pattern]
            if action is Action.DONE or action is Action.WAIT:
                return
            if action is Action.RESEND and outcome is not Outcome.UNKNOWN:
                # What it was sent to may have been deleted.
                prepared.forget(self._message, self._subscription)
                self._released(mandatory)
            elif action is Action.REFUSE or action is Action.RETRY:
                self._rejected(confirmation.reason, action)
            elif action is Action.LEAVE:
                self._left(confirmation.reason, mandatory)
                return
            else:
                self._resent += action is Action.RESEND_MARKED
                if outcome is Outcome.UNKNOWN:
                    self._attempts.failed(_unconfirmed(confirmation.reason), prepared)
                else:
                    self._given_back()

    def _made(self, profile: Profile) -> Message:
        """Return the message for a kind of peer; its identity stays the same."""
        if self._message is None or self._made_for is not profile:
            message, self._subscription = self._make(profile)
            if self._message is not None:
                message.message_id = self._message.message_id
            self._message, self._made_for = message, profile
        return self._message

    def _publish(self, *, wait: bool) -> tuple[Prepared, Confirmation, Publication]:
        deadline = self._deadline
        while True:
            prepared: Prepared | None = None
            confirmation = Confirmation()
            try:
                prepared = self._shared.connected(deadline, 1)
                self._connected = time.monotonic()
                message = self._made(prepared.connection.profile)
                if self._subscription is not None:
                    prepared.prepare_queue(self._subscription, deadline)
                else:
                    prepared.prepare(message.exchange, deadline)
                on_outcome = confirmation.set if wait else self._record_loss
                publication = prepared.connection.publish(
                    message,
                    deadline,
                    on_outcome,
                    resent=self._resent,
                    awaited=wait,
                    unconfirmed=not wait,
                )
                prepared.used = True
            except MessagingError as error:
                if self._was_released and time.monotonic() >= deadline - TOO_LITTLE:
                    # It was being sent again.
                    raise self._unroutable() from error
                self._attempts.failed(error, prepared)
            else:
                return prepared, confirmation, publication

    def _outcome(self, confirmation: Confirmation, publication: Publication) -> Outcome:
        try:
            return self._wait_for(confirmation)
        except CallTimeoutError:
            raise ConfirmTimeoutError(
                f"the outcome of {self._named()} was not known in time; it may have been "
                "received, so send it again only if a duplicate does no harm"
            ) from None
        finally:
            self._shared.role.hand_over()
            if confirmation.outcome is None:
                with contextlib.suppress(MessagingError):
                    publication.withdraw()

    def _wait_for(self, confirmation: Confirmation) -> Outcome:
        # For the reason of :meth:`hbshim.messaging.pool.pool.Pool._drop_unusable`.
        while confirmation.outcome is None:
            self._shared.role.wait_once(confirmation, self._deadline, "")
        return confirmation.outcome

    def _released(self, mandatory: bool) -> None:
        """Wait before it is sent again.

        The last attempt has :data:`LAST_ATTEMPT`, and twice the time that the one before took: one
        that the deadline cuts off would leave open whether the message was received.
        """
        limit = self._deadline
        if self._pattern is Pattern.REPLY:
            limit = min(limit, self._began + self._options.reply_retry)
        if self._pattern is Pattern.NOTIFY and not (self._made_for and self._made_for.routes):
            self._refusals += 1
            mandatory |= self._refusals >= self._options.rejected_message_retry_attempts
        self._was_released = True
        left = limit - time.monotonic() - max(LAST_ATTEMPT, 2 * self._took)
        if mandatory or left <= 0:
            raise self._unroutable()
        time.sleep(min(self._pause, left))
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _given_back(self) -> None:
        """Wait before what a receiver gave back, or died with, is sent again."""
        left = self._deadline - time.monotonic()
        if left <= TOO_LITTLE:
            raise ConfirmTimeoutError(
                f"each receiver of {self._named()} gave it back or ended, and may have handled it"
            )
        if self._pattern is Pattern.NOTIFY:
            delay = self._options.notification_retry_delay
            pause = min(delay * 2.0 ** (self._resent - 1), max(LONGEST_RETRY_PAUSE, delay))
        else:
            pause = self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        time.sleep(min(pause, left - TOO_LITTLE))

    def _unroutable(self) -> UnroutableError:
        return UnroutableError(
            f"no queue, server or listener accepts {self._named()}; start one, or declare and "
            "bind a queue where a broker has them"
        )

    def _rejected(self, reason: str, action: Action) -> None:
        self._refusals += 1
        left = self._deadline - time.monotonic()
        options = self._options
        if (
            action is Action.REFUSE
            or self._refusals >= options.rejected_message_retry_attempts
            or left <= TOO_LITTLE
        ):
            raise RejectedError(
                f"the peer rejected {self._named()}{reason and f': {reason}'}; is a queue full? "
                "Try again later"
            )
        time.sleep(min(options.rejected_message_retry_delay, left - TOO_LITTLE))

    def _left(self, reason: str, mandatory: bool) -> None:
        """Note that nothing is known of it, and that it is not sent again."""
        detail = f"the outcome of {self._named()} is unknown{reason and f': {reason}'}"
        service.current().metrics.record("message-in-doubt", "", detail)
        if mandatory:
            raise ConfirmTimeoutError(
                f"{detail}; it may have been received, so it was not sent again"
            )

    def _record_loss(self, outcome: Outcome, reason: str) -> None:
        """Record that no server gets a message whose sender does not wait for its outcome."""
        action = TABLE[outcome][self._pattern]
        if action is Action.DONE or self._pattern is Pattern.REPLY:
            return
        if action is Action.LEAVE:
            self._left(reason, mandatory=False)
            return
        detail = f"{self._named()} was {_PARTICIPLES[outcome]}{reason and f': {reason}'}"
        service.current().metrics.record("message-dropped", "", detail)

    def _named(self) -> str:
        message = self._message
        assert message is not None, "it was made"
        where = f"exchange {message.exchange!r}, routing key" if message.exchange else "address"
        return f"a message to {where} {message.routing_key!r}"


def _unconfirmed(reason: str) -> UnconfirmedError:
    return UnconfirmedError(
        f"the connection ended before the peer confirmed a message{reason and f': {reason}'}; it "
        "may have been stored"
    )
