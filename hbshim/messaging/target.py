"""The address of a message, and of a server."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hbshim.errors import OptionError


@dataclass(frozen=True, slots=True)
class Target:
    """An address, for clients and servers.

    Parameters:
        topic: the name that all servers of one kind share.
        server: one of these servers; None: any of them.
        exchange: a namespace of topics; None: the option `default_rpc_exchange`, or
            `default_notification_exchange` for notifications.
        namespace: of the methods that a client calls. Servers set it in their endpoints.
        version: of the interface that a client needs. Servers set what they offer in their
            endpoints ("1.3" serves clients of 1.0 to 1.3).
        fanout: to every server of the topic.

    Raises:
        OptionError: there is no topic, or the version is malformed.
    """

    topic: str
    server: str | None = None
    exchange: str | None = None
    namespace: str | None = None
    version: str | None = None
    fanout: bool = False

    def __post_init__(self) -> None:
        if not self.topic:
            raise OptionError("a target needs a topic; give it one, such as Target('compute')")
        if self.version is not None:
            version_of(self.version)
        if self.fanout and self.server is not None:
            raise OptionError(
                "a target is one server or, with fanout, all servers; remove one of the two"
            )

    def to(self, **changes: Any) -> Target:
        """Return a copy with some attributes replaced."""
        return replace(self, **changes)


def described(target: Target) -> str:
    """Return a target as errors name it."""
    server = f" on {target.server}" if target.server else ""
    return f"topic {target.topic!r}{server}"


def version_of(text: str) -> tuple[int, int]:
    """Return the major and minor version of an interface.

    Raises:
        OptionError: `text` is not of the form "1.0".
    """
    major, dot, minor = text.partition(".")
    if not (dot and major.isascii() and major.isdigit() and minor.isascii() and minor.isdigit()):
        raise OptionError(f"{text!r} is not a version; write it as major.minor, such as '1.0'")
    return int(major), int(minor)


def serves(offered: str | None, wanted: str | None) -> bool:
    """Return whether a server that offers one version can serve a client that wants another.

    The major versions must be equal, and the server's minor version not lower. No version is 1.0.
    """
    if not offered and not wanted:
        return True
    offered_major, offered_minor = version_of(offered or "1.0")
    major, minor = version_of(wanted or "1.0")
    return offered_major == major and offered_minor >= minor
