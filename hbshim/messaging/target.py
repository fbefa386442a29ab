"""Where a message goes, and what a server listens to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hbshim.errors import OptionError


@dataclass(frozen=True, slots=True)
class Target:
    """An address, for clients and servers alike.

    Parameters:
        topic: what the servers of one kind have in common.
        server: one of them; None: any one.
        exchange: a namespace of topics; None: the option `default_rpc_exchange`, or
            `default_notification_exchange` for notifications.
        namespace: of the methods that a client calls. Servers name it in their endpoints.
        version: of the methods' interface that a client needs. Servers name what they offer in
            their endpoints ("1.3" serves clients of 1.0 to 1.3).
        fanout: to every server of the topic.

    Raises:
        OptionError: there is no topic, or the version is none.
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
            raise OptionError("a target is one server or, with fanout, all of them; drop one")

    def to(self, **changes: Any) -> Target:
        """A copy with some attributes replaced."""
        return replace(self, **changes)


def version_of(text: str) -> tuple[int, int]:
    """Major and minor of an interface's version.

    Raises:
        OptionError: `text` is not of the form "1.0".
    """
    major, dot, minor = text.partition(".")
    if not (dot and major.isascii() and major.isdigit() and minor.isascii() and minor.isdigit()):
        raise OptionError(f"{text!r} is no version; write it as major.minor, such as '1.0'")
    return int(major), int(minor)


def serves(offered: str | None, wanted: str | None) -> bool:
    """Whether a server that offers one version can serve a client that wants another.

    The major versions are the same, and the server's minor is not less. No version is 1.0.
    """
    offered_major, offered_minor = version_of(offered or "1.0")
    major, minor = version_of(wanted or "1.0")
    return offered_major == major and offered_minor >= minor
