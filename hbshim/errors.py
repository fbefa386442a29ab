"""Every error hbshim raises itself; each message says what to do next.

Errors about a *connection* that hbshim declared dead are not here: the client
library's own recoverable error is raised instead, so that existing
reconnection code keeps working.
"""

from __future__ import annotations


class HbshimError(Exception):
    """Base of all errors raised by hbshim itself."""


class OptionError(HbshimError, ValueError):
    """An option has a value hbshim cannot use, or two options contradict each other."""


class MissingExtraError(HbshimError, ImportError):
    """A library that belongs to an optional extra is not installed."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(
            f"{library} is not installed; install it with: pip install 'hbshim[{extra}]'"
        )


class UnsupportedVersionError(HbshimError):
    """A library does not have the inner structure that its adapter relies on."""

    def __init__(self, library: str, version: str, detail: str, supported: str) -> None:
        super().__init__(
            f"hbshim does not know {library} {version} ({detail}); "
            f"install a supported version ({library}{supported}) or report this version"
        )


class AttachError(HbshimError):
    """A connection cannot be kept alive: it is closed, or of a kind hbshim does not know."""


class WorkerError(HbshimError):
    """The requested heartbeat worker cannot run in this process."""


class WatchError(HbshimError):
    """A watch socket cannot be opened, or what answers there is not a process of hbshim's."""


class BrokerError(HbshimError):
    """A broker, or its management API, cannot be reached or lets nobody in.

    Attributes:
        sentence: what happened, without credentials.
        remedy: what to do.
    """

    def __init__(self, sentence: str, remedy: str) -> None:
        super().__init__(f"{sentence}: {remedy}")
        self.sentence = sentence
        self.remedy = remedy
