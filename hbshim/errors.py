"""Every error that hbshim raises itself; each message names the next step.

Errors about a *connection* that hbshim declared dead are not here: the client library's own
recoverable error is raised instead, so that existing reconnection code works.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AttachError",
    "BrokerBlockedError",
    "BrokerError",
    "CallTimeoutError",
    "ConfirmTimeoutError",
    "ConnectError",
    "ConnectionLostError",
    "DeliveryError",
    "DirectoryError",
    "DriverLoadError",
    "EventLoopError",
    "HbshimError",
    "LostServerError",
    "MessagingError",
    "MissingExtraError",
    "NoSuchMethodError",
    "OptionError",
    "PayloadError",
    "PoolError",
    "PoolTimeoutError",
    "RejectedError",
    "RemoteError",
    "ResultGoneError",
    "TopologyError",
    "UnconfirmedError",
    "UnroutableError",
    "UnsupportedError",
    "UnsupportedVersionError",
    "WatchError",
    "WorkerError",
]


class HbshimError(Exception):
    """Base of all errors raised by hbshim itself."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The text, because the constructors of some errors take its parts.
        return _restored, (type(self), self.args, self.__dict__.copy())


def _restored(kind: type[HbshimError], args: tuple[Any, ...], state: dict[str, Any]) -> HbshimError:
    error = kind.__new__(kind, *args)
    super(HbshimError, error).__init__(*args)
    error.__dict__.update(state)
    return error


class OptionError(HbshimError, ValueError):
    """An option has an invalid value, or two options contradict each other."""


class MissingExtraError(HbshimError, ImportError):
    """A library that belongs to an optional extra is not installed."""

    def __init__(self, library: str, *extras: str) -> None:
        choice = " or ".join(f"'hbshim[{extra}]'" for extra in extras)
        super().__init__(f"{library} is not installed; install it with: pip install {choice}")


class UnsupportedVersionError(HbshimError):
    """A library does not have the inner structure that its adapter relies on."""

    def __init__(self, library: str, version: str, detail: str, supported: str) -> None:
        super().__init__(
            f"hbshim does not know {library} {version} ({detail}); "
            f"install a supported version ({library}{supported}) or report this version"
        )


class DriverLoadError(HbshimError):
    """The messaging driver that an installed package offers for a URL scheme cannot be loaded."""

    def __init__(self, scheme: str, entry_point: str, detail: str) -> None:
        super().__init__(
            f"the messaging driver for {scheme}:// cannot be loaded from {entry_point} ({detail}); "
            "reinstall or upgrade the package that provides this entry point"
        )


class AttachError(HbshimError):
    """A connection cannot be kept alive: it is closed, or of a type that hbshim does not know."""


class WorkerError(HbshimError):
    """The requested heartbeat worker cannot run in this process."""


class WatchError(HbshimError):
    """A watch socket cannot be opened, or does not answer as hbshim does."""


class BrokerError(HbshimError):
    """A broker, or its management API, cannot be reached or refuses access.

    Attributes:
        sentence: what happened, without credentials.
        remedy: what to do.
    """

    def __init__(self, sentence: str, remedy: str) -> None:
        super().__init__(f"{sentence}: {remedy}")
        self.sentence = sentence
        self.remedy = remedy


class MessagingError(HbshimError):
    """Base of the errors of messaging drivers."""


class PayloadError(MessagingError):
    """A payload cannot be encoded or decoded, or is larger than `payload_limit`."""


class PoolError(MessagingError):
    """A pool is closed, or a connection was released that is not checked out."""


class PoolTimeoutError(MessagingError):
    """No connection became free within `pool_timeout`."""


class ConnectError(MessagingError):
    """No host accepted a connection; the message names each host with the reason.

    Attributes:
        final: retrying is useless (credentials refused, no such virtual host).
    """

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


class ConnectionLostError(MessagingError):
    """The connection ended; a message that was being published did not reach the broker whole."""


class UnconfirmedError(ConnectionLostError):
    """The connection ended before the broker confirmed a message, which it may have stored."""


class BrokerBlockedError(MessagingError):
    """The broker accepts no messages for now (a memory or disk alarm), and did not in time."""


class TopologyError(MessagingError):
    """An exchange or queue is missing, has another type, or belongs to another connection.

    Attributes:
        code: the reply code of the broker's channel.close; None if it closed none.
    """

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class DeliveryError(MessagingError):
    """The broker did not accept a message, or no server acknowledged it; that may have it."""


class RejectedError(DeliveryError):
    """The broker refused a message (basic.nack); it was not stored."""


class UnroutableError(DeliveryError):
    """No queue is bound for a message (basic.return), or no server is known; it was not stored."""


class ConfirmTimeoutError(DeliveryError):
    """The broker did not confirm in time; the message may or may not have been stored."""


class CallTimeoutError(MessagingError):
    """No reply arrived within the caller's timeout."""


class LostServerError(MessagingError):
    """A call was handed over, and its server or the proxy is gone; it may have been run."""


class UnsupportedError(MessagingError):
    """The driver cannot do this; the message names one that can."""


class EventLoopError(MessagingError):
    """`hbshim.messaging.aio` is used on another event loop, without one, or under patches."""


class ResultGoneError(MessagingError):
    """The result of a submitted request is not stored: it was received, or its lifetime is over."""


class RemoteError(MessagingError):
    """The called method raised an error that cannot be raised here with its own type.

    Attributes:
        kind: the qualified name of the error's class on the server.
        text: its message.
        trace: the server's traceback, as text.
    """

    def __init__(self, kind: str, text: str, trace: str = "") -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text
        self.trace = trace


class DirectoryError(MessagingError):
    """The directory of hosts cannot be used as it is configured."""


class NoSuchMethodError(MessagingError):
    """No endpoint of the server has this method, in this namespace and version."""
