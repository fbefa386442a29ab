"""What the doctor finds out for a URL of the driver over ZeroMQ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class HostFacts:
    """One host of the URL or of the directory.

    Attributes:
        name: in the directory; of the URL, host and port.
        ports: how many it has.
        failures: why ports have not answered, by address.
        listed: the incarnation that the directory has; "" where it has none.
        host: the name that its proxy has; "" where that is not known.
        incarnation: of its proxy; "" where that is not known.
    """

    name: str
    ports: int
    failures: Mapping[str, str]
    listed: str
    host: str
    incarnation: str

    @property
    def is_silent(self) -> bool:
        """Whether no port has answered."""
        return len(self.failures) == self.ports


@dataclass(frozen=True)
class ZmqFacts:
    """One process, and the hosts that its driver would use. Nothing here has a password.

    Attributes:
        pyzmq, redis: the versions of the libraries; "" where redis-py is not installed.
        libzmq: the version of the C library.
        has_curve: whether that has CURVE.
        descriptors: how many this process has open, and how many it may, soft and hard.
        ipc_directory: of the local sockets.
        ipc_error: why that cannot be used; "" if it can; None: there is none.
        local: the figures of the processes of this host's proxy; None: it was not asked, because
            the directory cannot be used.
        curve: whether CURVE is on.
        key_error: why keys cannot be used; "" if they can.
        directory: where it is; "" for the hosts of a URL.
        directory_error: why it cannot be used; "" if it can.
        found: how many hosts the URL or the directory names.
        hosts: those that were asked.
        not_asked: hosts for which the time was too short.
        rivals: hosts whose record two proxies write, with the addresses of both.
        watched: seconds for which the directory was observed for that.
    """

    pyzmq: str
    redis: str
    libzmq: tuple[int, int, int]
    has_curve: bool
    descriptors: tuple[int, int, int]
    ipc_directory: str
    ipc_error: str | None
    local: Mapping[str, Mapping[str, float] | None] | None
    curve: bool
    key_error: str
    directory: str
    directory_error: str
    found: int
    hosts: tuple[HostFacts, ...]
    not_asked: int
    rivals: Mapping[str, tuple[str, str]]
    watched: float

    @property
    def unreachable(self) -> bool:
        """Whether what the URL names cannot be reached."""
        return bool(self.directory_error) or (
            bool(self.hosts) and all(host.is_silent for host in self.hosts)
        )
