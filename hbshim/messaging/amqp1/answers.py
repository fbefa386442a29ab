"""The replies that a listener sends, each until its client, or its client's queue, has received it.

They are sent over the listener's connection. A reply whose client cannot be reached, because it
connects again just now, is sent again by the thread that polls, so no worker waits for a client.

A request is settled when its client has the reply: until then, the caller learns if this process is
gone. If the client's latest reply has arrived, its next one will, too: the request is settled with
the reply then, in one write.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from hbshim.amqp1.delivery import Delivery
from hbshim.errors import (
    BrokerBlockedError,
    ConnectionLostError,
    MessagingError,
    RejectedError,
    UnroutableError,
)
from hbshim.messaging.amqp1.connection import Connection, Publication
from hbshim.messaging.amqp1.outcomes import TABLE, Action, Outcome, Pattern
from hbshim.messaging.amqp1.sender import FIRST_PAUSE, LONGEST_PAUSE
from hbshim.protocol.messages import Message

#: Seconds for which a reply that is sent again waits for credit; then other replies go on.
BRIEF = 0.2

#: The most clients of which is remembered that a reply has reached them.
MOST_REACHED = 1000

_NEVER = float("inf")


class Answer:
    """A reply.

    Parameters:
        message: the message.
        deadline: of ``time.monotonic()``, after which no caller waits for it.
        on_end: called once, when it is received or given up, unless `settle` was called.
        settle: settles the request of this reply.
    """

    __slots__ = (
        "connection",
        "deadline",
        "due",
        "first_failed",
        "message",
        "on_end",
        "pause",
        "publication",
        "settle",
    )

    def __init__(
        self,
        message: Message,
        deadline: float,
        on_end: Callable[[], None] | None = None,
        settle: Callable[[], None] | None = None,
    ) -> None:
        self.message = message
        self.deadline = deadline
        self.on_end = on_end
        self.settle = settle
        self.connection: Connection | None = None
        self.publication: Publication | None = None
        # When it is sent again; never while its outcome is open.
        self.due = _NEVER
        self.pause = FIRST_PAUSE
        self.first_failed: float | None = None


class Answers:
    """See the module. Any thread may call any method.

    Parameters:
        reply_retry: the option.
        on_error: called with the error of each reply that is given up.
        is_stopped: returns whether the listener opens no connection any more.
        wake: ends the wait of the thread that polls, which is to call :meth:`retry` in time.
    """

    def __init__(
        self,
        reply_retry: float,
        on_error: Callable[[Exception], None],
        is_stopped: Callable[[], bool],
        wake: Callable[[], None],
    ) -> None:
        self._reply_retry = reply_retry
        self._on_error = on_error
        self._is_stopped = is_stopped
        self._wake = wake
        # Those whose outcome is not final.
        self._open: dict[Answer, None] = {}
        self._next_check = _NEVER
        # The addresses of clients whose latest reply has arrived.
        self._reached: set[str] = set()

    def __len__(self) -> int:
        return len(self._open)

    def send(self, answer: Answer, connection: Connection, *, next_too: bool = True) -> bool:
        """Send a reply, and return when it is written.

        Parameters:
            next_too: if the connection is lost now, send it over the next one.

        Returns:
            False if the connection is lost, and there will be no next one: it was not sent.

        Raises:
            BrokerBlockedError: the router accepts no message by the deadline.
            PayloadError: it is larger than the router accepts.
        """
        self._open[answer] = None
        try:
            self._publish(answer, connection, answer.deadline)
        except ConnectionLostError:
            if self._is_stopped() or not next_too:
                self._open.pop(answer, None)
                return False
            self._schedule(answer)
            self._wake()
        except BaseException:
            self._end(answer)
            raise
        return True

    def left(self) -> float:
        """Return the seconds until :meth:`retry` is due; infinite if nothing is."""
        return self._next_check - time.monotonic()

    def retry(self, connection: Connection | None) -> None:
        """Send again what is due, and give up what is too late.

        Parameters:
            connection: of the listener; None: there is none now.
        """
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = _NEVER
        for answer in list(self._open):
            if answer.due == _NEVER and answer.connection and not answer.connection.is_open:
                self._ended(answer, Outcome.UNKNOWN, "")
            if now >= answer.deadline:
                self._give_up(answer, UnroutableError(f"{_named(answer)}: its client is gone"))
            elif answer.due <= now:
                self._send_again(answer, connection)
        checks = (min(each.due, each.deadline) for each in list(self._open))
        self._next_check = min(self._next_check, min(checks, default=_NEVER))

    def give_away(self) -> list[Answer]:
        """Return those whose outcome is not known, and forget them."""
        given = list(self._open)
        for answer in given:
            self._open.pop(answer, None)
        return given

    def lost(self) -> None:
        """Note that a connection was lost: its replies are sent again."""
        self._next_check = 0.0
        self._reached.clear()

    def _send_again(self, answer: Answer, connection: Connection | None) -> None:
        if connection is None:
            self._schedule(answer)
            return
        answer.due = _NEVER
        try:
            self._publish(answer, connection, min(answer.deadline, time.monotonic() + BRIEF))
        except (ConnectionLostError, BrokerBlockedError):
            self._schedule(answer)
        except MessagingError as error:
            self._give_up(answer, error)

    def _publish(self, answer: Answer, connection: Connection, deadline: float) -> None:
        address = answer.message.routing_key

        def on_outcome(outcome: Outcome, reason: str) -> None:
            # Under the lock of the connection.
            if outcome is not Outcome.ACCEPTED:
                self._reached.discard(address)
            else:
                if len(self._reached) >= MOST_REACHED:
                    self._reached.clear()
                self._reached.add(address)
                if answer.on_end is None:
                    self._open.pop(answer, None)
                    return
            connection.call_later(lambda: self._ended(answer, outcome, reason))

        def on_sent(delivery: Delivery) -> None:
            # Of a reply in several frames, some may be sent later.
            if answer.settle is not None and address in self._reached and delivery.complete:
                answer.settle()
                answer.settle = answer.on_end = None

        answer.connection = connection
        answer.publication = connection.publish(
            answer.message, deadline, on_outcome, wakes=False, on_sent=on_sent
        )
        # Those of clients that neither read nor leave are given up in time.
        self._next_check = min(self._next_check, answer.deadline)

    def _ended(self, answer: Answer, outcome: Outcome, reason: str) -> None:
        """Handle the outcome of an attempt."""
        answer.publication = None
        action = TABLE[outcome][Pattern.REPLY]
        if action is Action.REFUSE:
            detail = f"{_named(answer)} was rejected{reason and f': {reason}'}"
            self._give_up(answer, RejectedError(detail))
        elif action is not Action.RESEND:
            self._end(answer)
        elif answer in self._open:
            now = time.monotonic()
            if outcome is Outcome.UNKNOWN:
                # Not the client's fault: its time begins anew.
                answer.first_failed = None
            elif answer.first_failed is None:
                answer.first_failed = now
            elif now - answer.first_failed >= self._reply_retry:
                reason = "its client did not connect again in time (reply_retry)"
                self._give_up(answer, UnroutableError(f"{_named(answer)}: {reason}"))
                return
            self._schedule(answer)

    def _schedule(self, answer: Answer) -> None:
        answer.due = time.monotonic() + answer.pause
        answer.pause = min(2 * answer.pause, LONGEST_PAUSE)
        self._next_check = min(self._next_check, answer.due)

    def _give_up(self, answer: Answer, error: MessagingError) -> None:
        if answer in self._open:
            self._end(answer)
            self._on_error(error)

    def _end(self, answer: Answer) -> None:
        if self._open.pop(answer, answer) is not answer:
            publication, answer.publication = answer.publication, None
            try:
                if publication is not None:
                    publication.withdraw()
            except MessagingError:
                pass  # with its connection, it is forgotten, too
            if answer.on_end is not None:
                answer.on_end()


def _named(answer: Answer) -> str:
    return f"a reply to {answer.message.routing_key!r} was not received"
