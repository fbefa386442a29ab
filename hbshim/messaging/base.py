"""The interface between the messaging patterns and the drivers.

:mod:`hbshim.messaging.rpc`, `server`, `notify` and the plug-in for oslo.messaging use only this
interface. A driver over another transport implements it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from hbshim.errors import ConnectionLostError, OptionError
from hbshim.messaging.capabilities import Capabilities
from hbshim.messaging.reporting import OnError
from hbshim.messaging.target import Target
from hbshim.options import DEFAULT, Default

#: Kinds of reply: the end of a call ("result", "error"), or a report before the end.
ReplyKind: TypeAlias = Literal["result", "error", "progress", "alive"]

#: As the lifetime of a queue: until it is deleted.
NEVER = float("inf")

#: Priorities of notifications, as oslo.messaging names them. Each has its own queues.
PRIORITIES = ("debug", "info", "audit", "warn", "error", "critical", "sample")

#: The longest timeout, in seconds; a longer one, also infinity, is reduced to it.
LONGEST_TIMEOUT = 365 * 24 * 3600.0

#: Seconds for stopping and closing a listener, by default.
CLOSE_LIMIT = 5.0

FINAL: frozenset[str] = frozenset(("result", "error"))


def timeout_of(seconds: float) -> float:
    """Return a timeout that locks, pollers and the broker accept.

    Raises:
        OptionError: `seconds` is not a number of seconds.
    """
    try:
        # NaN is not equal to itself.
        if seconds != seconds:
            raise ValueError
        return float(min(max(0.0, seconds), LONGEST_TIMEOUT))
    except (TypeError, ValueError, ArithmeticError):
        raise OptionError(f"a timeout must be a number of seconds, got {seconds!r}") from None


def driver_closed() -> ConnectionLostError:
    """Return the error of an operation of a closed driver."""
    return ConnectionLostError("the driver is closed; create a new one")


@dataclass(frozen=True, slots=True)
class Payload:
    """Encoded content, and its content type."""

    body: bytes
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply of a server."""

    kind: ReplyKind
    payload: Payload


OnReply: TypeAlias = Callable[[Reply], None]


class Incoming(Protocol):
    """A message that a listener received.

    Attributes:
        message_id: the same when the message is redelivered.
        expires: whether its sender set a time limit.
        expects_reply: whether a caller waits for :meth:`reply`.
        priority: of a notification, as its sender named it; empty for calls and casts.
        may_have_run: it was delivered before, to this server or another one, which may have
            started to process it.
        attempts: the number of earlier attempts to handle a notification.
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
        """Return whether its time limit is over, so that no caller waits for the result."""
        ...

    def acknowledge(self) -> bool:
        """Acknowledge the message. False: this was not possible, and the message is redelivered."""
        ...

    def requeue(self) -> None:
        """Have it handled later, by this listener or another one.

        A notification is handled again after a delay that grows with each attempt. After the
        last attempt it goes to a dead-letter queue.
        """
        ...

    def reject(self, reason: str) -> None:
        """Refuse a message that no attempt can handle, and record why.

        A broker that has a dead-letter exchange for its queue moves it there. Where it was
        acknowledged before, it is recorded only.
        """
        ...

    def return_to_queue(self) -> None:
        """Requeue the message at once: its processing did not end."""
        ...

    def reply(self, payload: Payload, kind: ReplyKind = "result") -> None:
        """Send a reply to the caller, if one waits for it.

        Parameters:
            payload: the content.
            kind: "progress" or "alive" before the end; "result" or "error" at the end.

        Raises:
            MessagingError: it could not be sent within the time that the caller has left.
        """
        ...


class Listener(Protocol):
    """Receives messages, for the threads that call :meth:`poll` repeatedly.

    Attributes:
        on_error: called with errors from which the listener recovers: a lost connection, a
            queue that the broker refuses, a channel that it closed. It must not raise. By
            default the errors are logged.
    """

    on_error: OnError

    def open(self, timeout: float) -> bool:
        """Connect and declare every queue; otherwise :meth:`poll` keeps trying.

        Parameters:
            timeout: seconds to wait.

        Returns:
            Whether all queues are consumed from.

        Raises:
            ConnectError: as :meth:`poll` does.
            TopologyError: an exchange or a queue exists with another type.
        """
        ...

    def poll(
        self, timeout: float | None = None, batch_size: int = 1, batch_timeout: float | None = None
    ) -> Sequence[Incoming]:
        """Wait for messages; reconnect if the connection is lost.

        Parameters:
            timeout: seconds to wait for the first message; None: until :meth:`stop`.
            batch_size: the most messages to return.
            batch_timeout: seconds to wait for the rest of a batch; None: do not wait.

        Returns:
            Up to `batch_size` messages.

        Raises:
            ConnectError: the broker refuses the credentials, or the virtual host does not exist.
                After any other error the listener keeps trying.
        """
        ...

    def pause(self) -> None:
        """Receive nothing until :meth:`resume`; messages stay in their queues."""
        ...

    def resume(self) -> None:
        """Receive messages again."""
        ...

    def stop(self, timeout: float = CLOSE_LIMIT) -> None:
        """Requeue what was not started, and end :meth:`poll`.

        Parameters:
            timeout: seconds. The broker requeues the rest when the connection ends.
        """
        ...

    def close(self, timeout: float = CLOSE_LIMIT) -> None:
        """Close the connection; unacknowledged messages are redelivered.

        Parameters:
            timeout: seconds.
        """
        ...


class Driver(Protocol):
    """Sends and receives messages. All methods may be called from any thread.

    A driver that also stores messages is a :class:`hbshim.messaging.storing.StoringDriver`.

    Attributes:
        rpc_timeout: seconds for a call or a cast without a timeout of its own.
        payload_limit: the largest payload, in bytes.
        capabilities: the driver's capabilities.
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
        call_monitor_timeout: float | None = None,
        on_reply: OnReply | None = None,
        mandatory: bool = False,
        attempts: int | None = None,
    ) -> Reply:
        """CALL: send to one server, and wait for its reply.

        Parameters:
            target: the server or servers.
            payload: the request.
            timeout: seconds for everything: connecting, sending, waiting.
            call_monitor_timeout: seconds without a report of the server ("alive", "progress")
                after which the call fails before `timeout`; None: only `timeout` counts.
            on_reply: called with each "progress", in the caller's thread.
            mandatory: fail at once if no server has a queue for it yet.
            attempts: the most attempts to connect; None: as many as `timeout` allows.

        Raises:
            CallTimeoutError: no reply in time.
            UnroutableError: with `mandatory`: no server has a queue for it.
            ConnectError: no connection, and retrying is useless, or `attempts` are used up.
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
        """CAST, or FANOUT if the target is a fanout: send a message without a reply.

        A server that does not receive it within `timeout` seconds never gets it.

        Parameters:
            target: the server or servers.
            payload: the message.
            timeout: seconds for sending, and for the message in its queue.
            attempts: the most attempts to send it; None: as many as `timeout` allows; DEFAULT: the
                option `connection_retry_attempts`.
            mandatory: return when the message is in a queue, and fail if there is no queue.

        Raises:
            UnroutableError: with `mandatory`: no server has a queue for it.
            RejectedError, ConfirmTimeoutError: with `mandatory`: the broker did not accept it.
            DeliveryError: a driver that waits for servers: none acknowledged it.
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
        """NOTIFY: return when a queue stores the message for its consumer.

        Parameters:
            target: the topic.
            payload: the message.
            priority: one of :data:`PRIORITIES`.
            timeout: seconds for everything.
            attempts: as for :meth:`cast`.

        Raises:
            DeliveryError: the broker did not accept it at any attempt; or a driver that waits for
                listeners: those of a pool did not acknowledge it.
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
        """Return a listener for the calls, casts and fanouts to a server.

        Parameters:
            target: with topic and server.
            prefetch: the most unacknowledged messages; DEFAULT: the option `rpc_prefetch_count`.
            acknowledge_first: acknowledge each message when :meth:`Listener.poll` returns it: it is
                processed at most once. Otherwise its receiver acknowledges it.
            expires: seconds without a server until its queues expire, or :data:`NEVER`;
                DEFAULT: the option `rpc_queue_expiration`. With NEVER the queue of the topic
                stays, and the queue of the server expires after that option. An existing queue
                keeps its lifetime.
        """
        ...

    def listen_for_notifications(
        self,
        targets: Sequence[tuple[Target, str]],
        pool: str | None = None,
        prefetch: int | Default = DEFAULT,
    ) -> Listener:
        """Return a listener for notifications.

        Parameters:
            targets: each with a priority.
            pool: listeners of one pool share the messages; each pool gets all of them.
            prefetch: the most unacknowledged messages; DEFAULT: the option
                `notification_prefetch_count`.
        """
        ...

    def close(self) -> None:
        """Close every connection; calls that wait raise an error."""
        ...
