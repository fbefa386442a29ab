"""The seam between the patterns of messaging and what carries them.

:mod:`hbshim.messaging.rpc`, `server` and `notify` know no more than this, nor does the
plug-in for oslo.messaging; a driver over another transport starts here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from hbshim.errors import OptionError
from hbshim.messaging.capabilities import Capabilities
from hbshim.messaging.reporting import OnError
from hbshim.messaging.target import Target
from hbshim.options import DEFAULT, Default

#: What a reply is: the end of a call ("result", "error"), or a sign that comes before it.
ReplyKind: TypeAlias = Literal["result", "error", "progress", "alive"]

#: As the lifetime of a queue: until it is deleted.
NEVER = float("inf")

#: Priorities of notifications, each with queues of its own; the names that oslo.messaging has.
PRIORITIES = ("debug", "info", "audit", "warn", "error", "critical", "sample")

#: Seconds, the longest timeout; a longer one, infinity included, is taken for this one.
LONGEST_TIMEOUT = 365 * 24 * 3600.0

#: Seconds that stopping and closing a listener may take, unless the caller says how many.
CLOSE_LIMIT = 5.0

FINAL: frozenset[str] = frozenset(("result", "error"))


def timeout_of(seconds: float) -> float:
    """A timeout that locks, pollers and the broker accept.

    Raises:
        OptionError: it is no number of seconds.
    """
    try:
        # Not a number is not equal to itself.
        if seconds != seconds:
            raise ValueError
        return float(min(max(0.0, seconds), LONGEST_TIMEOUT))
    except (TypeError, ValueError, ArithmeticError):
        raise OptionError(f"a timeout must be a number of seconds, got {seconds!r}") from None


@dataclass(frozen=True, slots=True)
class Payload:
    """Encoded content, and how it is encoded."""

    body: bytes
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server sent back."""

    kind: ReplyKind
    payload: Payload


OnReply: TypeAlias = Callable[[Reply], None]


class Incoming(Protocol):
    """A message that a listener took in.

    Attributes:
        message_id: the same when a message comes again.
        expires: its sender gave it a time limit.
        expects_reply: somebody waits for :meth:`reply`.
        priority: of a notification, as its sender named it; empty for calls and casts.
        may_have_run: it was handed to a server before, this one or another, which may or may
            not have begun it.
        attempts: how often a notification was handled before, without success.
    """

    @property
    def payload(self) -> Payload: ...
    @property
    def message_id(self) -> str: ...
    @property
    def expects_reply(self) -> bool: ...
    @property
    def expires(self) -> bool: ...
    @property
    def priority(self) -> str: ...
    @property
    def may_have_run(self) -> bool: ...
    @property
    def attempts(self) -> int: ...

    def expired(self) -> bool:
        """Whether nobody waits any more, so that working on it would be in vain."""
        ...

    def acknowledge(self) -> bool:
        """Say that it is done with. False: it could not be said, and the message comes again."""
        ...

    def requeue(self) -> None:
        """Have it handled later, by this listener or another one.

        A notification is handled again after a pause that grows with each attempt; after
        the last one it goes to a dead-letter queue.
        """
        ...

    def give_back(self) -> None:
        """Return it to its queue at once; what was begun of it did not end."""
        ...

    def reply(self, payload: Payload, kind: ReplyKind = "result") -> None:
        """Send a reply to who waits for it, if somebody does.

        Raises:
            MessagingError: it could not be sent within the time left to the caller.
        """
        ...


class Listener(Protocol):
    """Receives messages, for the threads that call :meth:`poll` again and again.

    Attributes:
        on_error: called with the errors that the listener recovers from by itself: a lost
            connection, a queue that it is refused, a channel that the broker closed. It must
            not raise. They are logged unless it is set.
    """

    on_error: OnError

    def open(self, timeout: float) -> bool:
        """Be connected, with every queue declared; else :meth:`poll` goes on trying.

        Parameters:
            timeout: seconds to wait for it.

        Returns:
            Whether it is.

        Raises:
            ConnectError: as :meth:`poll` does.
            TopologyError: an exchange or a queue is there, but of another type.
        """
        ...

    def poll(
        self, timeout: float | None = None, batch_size: int = 1, batch_timeout: float | None = None
    ) -> Sequence[Incoming]:
        """Wait for messages; lost connections are made anew underneath.

        Parameters:
            timeout: seconds to wait for the first; None: until :meth:`stop`.
            batch_size: how many to return at most.
            batch_timeout: seconds to wait for the rest of a batch; None: no wait.

        Returns:
            None to `batch_size` messages.

        Raises:
            ConnectError: the broker refuses these credentials, or the virtual host does not
                exist; every other reason is waited out.
        """
        ...

    def pause(self) -> None:
        """Take nothing in until :meth:`resume`; what waits stays in its queue."""
        ...

    def resume(self) -> None:
        """Take messages in again."""
        ...

    def stop(self, timeout: float = CLOSE_LIMIT) -> None:
        """Return to the queues what was not begun, and have :meth:`poll` end.

        Parameters:
            timeout: seconds for it. What cannot be returned by then is requeued
                by the broker when the connection ends.
        """
        ...

    def close(self, timeout: float = CLOSE_LIMIT) -> None:
        """Close the connection; what was not acknowledged is redelivered.

        Parameters:
            timeout: seconds for it.
        """
        ...


class Driver(Protocol):
    """Sends and receives messages. All methods may be called from any thread.

    A driver that also stores them is a :class:`hbshim.messaging.storing.StoringDriver`.

    Attributes:
        rpc_timeout: seconds for a call or a cast that names no time.
        payload_limit: bytes that a payload may have.
        capabilities: what it can do.
    """

    @property
    def rpc_timeout(self) -> float: ...
    @property
    def payload_limit(self) -> int: ...
    @property
    def capabilities(self) -> Capabilities: ...

    def call(
        self,
        target: Target,
        payload: Payload,
        timeout: float,
        *,
        silence: float | None = None,
        on_reply: OnReply | None = None,
        mandatory: bool = False,
        attempts: int | None = None,
    ) -> Reply:
        """CALL: send to one server and wait for what it replies.

        Parameters:
            timeout: seconds for everything: finding a connection, sending, waiting.
            silence: seconds without any sign of the server ("alive", "progress") after
                which to give up earlier; None: only `timeout` counts.
            on_reply: called with each "progress", in the caller's thread.
            mandatory: fail at once where no server has a queue for it yet.
            attempts: to connect; None: as many as `timeout` allows.

        Raises:
            CallTimeoutError: no reply in time.
            UnroutableError: with `mandatory`.
            ConnectError: no connection, and trying again is no use, or `attempts` are over.
        """
        ...

    def cast(
        self,
        target: Target,
        payload: Payload,
        timeout: float,
        *,
        attempts: int | Default | None = DEFAULT,
        mandatory: bool = False,
    ) -> None:
        """CAST, or FANOUT where the target says so: send and forget.

        A server that does not take it in within `timeout` seconds never gets it.

        Parameters:
            attempts: to send it; None: as many as `timeout` allows; DEFAULT: the option
                `connection_retry_attempts`.
            mandatory: return when the message is in a queue, and fail if there is none.

        Raises:
            UnroutableError: with `mandatory`, no server has a queue for it.
            RejectedError, ConfirmTimeoutError: with `mandatory`, the broker did not take it.
            ConnectError, ConnectionLostError, BrokerBlockedError, PoolTimeoutError: it was
                not sent.
        """
        ...

    def notify(
        self,
        target: Target,
        payload: Payload,
        priority: str,
        timeout: float,
        *,
        attempts: int | Default | None = DEFAULT,
    ) -> None:
        """NOTIFY: return when the message is stored in a queue that waits for its consumer.

        Parameters:
            attempts: as of :meth:`cast`.

        Raises:
            DeliveryError: the broker did not take it, however often it was asked.
            ConnectError, ConnectionLostError, BrokerBlockedError, PoolTimeoutError: it was
                not sent.
        """
        ...

    def listen(
        self,
        target: Target,
        prefetch: int | Default = DEFAULT,
        *,
        acknowledge_first: bool = True,
        expires: float | Default = DEFAULT,
    ) -> Listener:
        """A listener for the calls, casts and fanouts to a server.

        Parameters:
            target: with topic and server.
            prefetch: unacknowledged messages it may hold; DEFAULT: the option
                `rpc_prefetch_count`.
            acknowledge_first: acknowledge each message as it is handed out: it is worked
                on once, or not at all. Else whoever works on it acknowledges it.
            expires: seconds without a server until its queues expire, or :data:`NEVER`;
                DEFAULT: the option `rpc_queue_expiration`. With NEVER the queue of the topic
                stays, and that of the server itself expires as the option says. A queue that is
                there keeps its lifetime.
        """
        ...

    def listen_for_notifications(
        self,
        targets: Sequence[tuple[Target, str]],
        pool: str | None = None,
        prefetch: int | Default = DEFAULT,
    ) -> Listener:
        """A listener for notifications.

        Parameters:
            targets: each with a priority.
            pool: listeners of one pool share the messages; each pool gets all of them.
            prefetch: unacknowledged messages it may hold; DEFAULT: the option
                `notification_prefetch_count`.
        """
        ...

    def close(self) -> None:
        """Close every connection; calls that wait fail."""
        ...
