"""What messaging drivers report of themselves.

Drivers lie above this package, so they register here. They are held weakly, and each is asked at a
snapshot, in any thread: it must neither wait nor log.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Protocol

#: The patterns of messages, in the order in which they are shown.
PATTERNS = ("call", "cast", "fanout", "notify")


@dataclass(frozen=True)
class ZmqStatus:
    """One driver over ZeroMQ, as this process uses it.

    Attributes:
        name: the hosts of its URL, or its directory, without credentials.
        hosts: connected hosts, by pattern.
        calls_waiting: calls, and casts that wait for a confirmation.
        listeners: of its servers, by one for each that is open.
        sent: messages that were handed to a connection, by pattern; for a fanout one for all
            listeners, for a notification one for each pool.
        received: messages that arrived at its listeners, by pattern.
        dropped: messages that a limit of this process dropped.
        expired: casts that came to a listener after their time.
        gaps: publications that did not arrive, by the numbers of their publishers.
        outbox_bytes: of casts and replies that wait to be sent.
        inbox_bytes: of publications that wait to be handled.
        io_idle: seconds since the I/O thread of the process ran; it runs each second.
    """

    name: str
    hosts: dict[str, int]
    calls_waiting: int
    listeners: int
    sent: dict[str, int]
    received: dict[str, int]
    dropped: int
    expired: int
    gaps: int
    outbox_bytes: int
    inbox_bytes: int
    io_idle: float


class ZmqDriver(Protocol):
    """What a driver over ZeroMQ offers here."""

    def zmq_status(self) -> ZmqStatus | None:
        """Return its status; None where this process does not use it."""
        ...


_drivers: dict[int, weakref.ref[ZmqDriver]] = {}


def register(driver: ZmqDriver) -> None:
    """Include a driver in every snapshot, for as long as it exists."""
    key = id(driver)
    # No lock: any thread may drop the last reference, at any moment.
    _drivers[key] = weakref.ref(driver, lambda dead: _forget(key, dead))


def _forget(key: int, dead: weakref.ref[ZmqDriver]) -> None:
    if _drivers.get(key) is dead:
        del _drivers[key]


def zmq_drivers() -> list[ZmqStatus]:
    """Return the status of every driver over ZeroMQ that this process uses."""
    found = []
    for reference in list(_drivers.values()):
        driver = reference()
        status = None if driver is None else driver.zmq_status()
        if status is not None:
            found.append(status)
    return found
