"""The directory within one process."""

from __future__ import annotations

import time

from hbshim.messaging.zmq.directory import Directory, HostRecord, Registration
from hbshim.messaging.zmq.directory.memory import MemoryDirectory
from hbshim.messaging.zmq.frames import VERSION, key_of

TOPIC, ONE, OTHER = key_of("e", "t"), key_of("e", "t", "one"), key_of("e", "other")


def record(host: str, incarnation: str = "1") -> HostRecord:
    return HostRecord(host, incarnation, {"call": f"tcp://{host}:9501"}, VERSION)


def soon() -> float:
    return time.monotonic() + 5


def hosts(directory: Directory, key: bytes) -> dict[str, tuple[str, ...]]:
    found = directory.routes(key, soon())
    assert found.reachable
    return {route.record.host: route.instances for route in found.routes}


def test_routes_name_the_hosts_and_the_listeners_of_a_key() -> None:
    directory: Directory = MemoryDirectory()
    assert directory.register(record("b"), Registration((TOPIC, ONE), "b1"), soon())
    assert directory.register(record("a"), Registration((TOPIC,), "a2"), soon())
    assert directory.register(record("a"), Registration((TOPIC, OTHER), "a1"), soon())
    assert hosts(directory, TOPIC) == {"a": ("a1", "a2"), "b": ("b1",)}
    assert hosts(directory, ONE) == {"b": ("b1",)}
    assert hosts(directory, OTHER) == {"a": ("a1",)}
    assert hosts(directory, key_of("", "t")) == {}


def test_a_listener_is_withdrawn_and_then_its_host() -> None:
    directory = MemoryDirectory()
    for instance in ("1", "2"):
        directory.register(record("a"), Registration((TOPIC,), instance), soon())
    directory.register(record("b"), Registration((TOPIC,), "1"), soon())
    directory.withdraw("a", "1", soon())
    assert hosts(directory, TOPIC) == {"a": ("2",), "b": ("1",)}
    assert directory.renew("a", soon())
    directory.withdraw("a", None, soon())
    assert hosts(directory, TOPIC) == {"b": ("1",)}
    assert not directory.renew("a", soon())


def test_a_host_that_restarts_replaces_its_record() -> None:
    directory = MemoryDirectory()
    for incarnation in ("1", "2"):
        directory.register(record("a", incarnation), Registration((TOPIC,), "1"), soon())
    (route,) = directory.routes(TOPIC, soon()).routes
    assert route.record.incarnation == "2"


def test_those_that_watch_are_told_of_each_change_until_they_end() -> None:
    directory = MemoryDirectory()
    seen: list[int] = []

    def on_change() -> None:
        seen.append(len(directory.routes(TOPIC, soon()).routes))

    end = directory.watch(on_change)
    directory.register(record("a"), Registration((TOPIC,), "1"), soon())
    directory.withdraw("a", None, soon())
    end()
    end()
    directory.register(record("a"), Registration((TOPIC,), "1"), soon())
    assert seen == [1, 0]
