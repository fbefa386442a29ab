"""What the tests of all directories need."""

from __future__ import annotations

import time

from hbshim.messaging.zmq.directory import HostRecord, Reader, Registration
from hbshim.messaging.zmq.frames import VERSION, key_of

TOPIC, ONE, OTHER = key_of("e", "t"), key_of("e", "t", "one"), key_of("e", "other")


def record(host: str, incarnation: str = "1") -> HostRecord:
    return HostRecord(host, incarnation, {"call": "tcp://192.0.2.1:9501"}, VERSION)


def listener(instance: str, *keys: bytes) -> Registration:
    return Registration(keys or (TOPIC,), instance)


def soon() -> float:
    """A deadline that no test should reach."""
    return time.monotonic() + 30


def hosts(directory: Reader, key: bytes = TOPIC) -> dict[str, tuple[str, ...]]:
    """The instances of each host that serves a key."""
    found = directory.routes(key, soon())
    return {route.record.host: route.instances for route in found.routes}
