"""The directory in Redis, with a real one that is killed, slow, wrong or holds invalid records."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hbshim.heartbeat.service import current
from hbshim.messaging.zmq.directory import Directory, Route, Routes
from hbshim.messaging.zmq.directory.address import read_address
from hbshim.messaging.zmq.directory.cache import NEGATIVE, RouteCache
from hbshim.messaging.zmq.directory.redis import RedisDirectory
from hbshim.messaging.zmq.directory.settings import DirectorySettings
from hbshim.messaging.zmq.frames import key_of
from tests.interrupts import interleave_everywhere
from tests.messaging.zmq.directories import ONE, OTHER, TOPIC, hosts, listener, record, soon
from tests.messaging.zmq.redis_server import Container, RedisServer
from tests.waiting import wait_until
from wsgi_harness.wire.relay import Relay

PASSWORD = "only-for-this-test"
Open = Callable[..., RedisDirectory]


def events(kind: str) -> list[str]:
    return [event.detail for event in current().metrics.recorded() if event.kind == kind]


@pytest.fixture(autouse=True)
def _no_events() -> None:
    current().metrics.take_events()


@contextmanager
def opening(url: str) -> Iterator[Open]:
    made: list[RedisDirectory] = []

    def open_one(at: str = url, **changes: Any) -> RedisDirectory:
        chosen = {"expire": 30.0, "update": 1.0, "socket_timeout": 5.0, **changes}
        made.append(RedisDirectory(read_address(at), DirectorySettings(**chosen)))
        return made[-1]

    try:
        yield open_one
    finally:
        for each in made:
            each.close()
        wait_until(lambda: not any(each._running for each in made))


@pytest.fixture
def directory(redis_server: RedisServer) -> Iterator[Open]:
    """Open directories in one Redis, as several processes do; they are closed in the end."""
    with opening(redis_server.url) as open_one:
        yield open_one


def registered(open_one: Open, **changes: Any) -> tuple[RedisDirectory, RedisDirectory]:
    """A proxy with one host, and a client that knows it."""
    proxy, client = open_one(**changes), open_one(**changes)
    assert proxy.register(record("a"), listener("1"), soon())
    assert hosts(client) == {"a": ("1",)}
    return proxy, client


# -- it works -----------------------------------------------------------------


def test_what_one_process_registers_others_find(directory: Open) -> None:
    proxy: Directory = directory()
    client = directory()
    assert hosts(client) == {}
    assert proxy.register(record("a"), listener("1", TOPIC, ONE), soon())
    assert proxy.register(record("a"), listener("2"), soon())
    assert proxy.register(record("b|%/ä"), listener("3|"), soon())
    wait_until(lambda: hosts(client) == {"a": ("1", "2"), "b|%/ä": ("3|",)})
    assert hosts(client, ONE) == {"a": ("1",)}
    found = client.routes(TOPIC, soon())
    assert found.reachable
    assert found.routes[0].record == record("a")
    assert proxy.withdraw("a", "1", soon())
    assert proxy.withdraw("b|%/ä", None, soon())
    wait_until(lambda: hosts(client) == {"a": ("2",)})
    assert hosts(directory()) == {"a": ("2",)}
    assert hosts(client, ONE) == {}


def test_a_caller_that_waits_is_woken_by_the_registration(directory: Open) -> None:
    # Neither the refresh nor the end of a negative answer may do it.
    proxy, client = directory(), directory(update=1000.0)
    assert hosts(client) == {}
    heard = threading.Event()
    end = client.watch(heard.set)
    proxy.register(record("a"), listener("1"), soon())
    wait_until(heard.is_set)
    assert hosts(client) == {"a": ("1",)}
    heard.clear()
    proxy.withdraw("a", None, soon())
    wait_until(heard.is_set)
    end()
    assert hosts(client) == {}


def test_a_host_that_restarts_replaces_its_record(directory: Open) -> None:
    proxy, client = registered(directory)
    proxy.register(record("a", "2"), listener("1"), soon())
    wait_until(lambda: client.routes(TOPIC, soon()).routes[0].record.incarnation == "2")


def test_a_listener_that_leaves_a_key_is_no_longer_found_there(directory: Open) -> None:
    proxy, client = directory(), directory()
    proxy.register(record("a"), listener("1", TOPIC, OTHER), soon())
    assert hosts(client, OTHER) == {"a": ("1",)}
    proxy.register(record("a"), listener("1", TOPIC), soon())
    wait_until(lambda: hosts(client, OTHER) == {})
    wait_until(lambda: hosts(client) == {"a": ("1",)})


def test_a_host_that_rejects_a_key_is_left_alone_for_a_moment(directory: Open) -> None:
    _, client = registered(directory)
    forgotten = time.monotonic()
    client.forget(TOPIC, "a")
    found = hosts(client)
    assert found == {} or time.monotonic() - forgotten >= NEGATIVE
    wait_until(lambda: hosts(client) == {"a": ("1",)})


def test_known_routes_cost_redis_nothing_and_it_is_never_searched(
    directory: Open, redis_server: RedisServer
) -> None:
    redis_server.command("CONFIG", "RESETSTAT")
    proxy, client = registered(directory, update=1000.0)
    for _ in range(500):
        assert hosts(client) == {"a": ("1",)}
    proxy.renew("a", soon())
    proxy.withdraw("a", None, soon())
    statistics = redis_server.command("INFO", "commandstats").decode()
    lines = (line.partition(":") for line in statistics.split() if line.startswith("cmdstat_"))
    calls = {name: int(text.split("=")[1].split(",")[0]) for name, _, text in lines}
    assert calls["cmdstat_evalsha"] + calls.get("cmdstat_eval", 0) < 20
    assert not [name for name in calls if "keys" in name or "scan" in name or "psub" in name]
    assert calls["cmdstat_publish"] == 2


def test_the_lease_is_renewed_by_one_command_and_ends_with_its_process(
    directory: Open, redis_server: RedisServer
) -> None:
    proxy, client = registered(directory, expire=1.0, update=0.2)
    key = "hbzmq:{default}:h:a"
    later = time.monotonic() + 2.0
    wait_until(lambda: time.monotonic() > later and redis_server.command("PTTL", key) > 0)
    wait_until(lambda: hosts(client) == {"a": ("1",)})
    # As if it were killed: nothing renews, nothing is withdrawn.
    proxy.close()
    wait_until(lambda: hosts(client) == {})
    assert client.routes(TOPIC, soon()).reachable


def test_what_a_killed_host_left_in_the_sets_is_removed(
    directory: Open, redis_server: RedisServer
) -> None:
    proxy, _ = registered(directory)
    redis_server.command("SADD", "hbzmq:{default}:t:%01e%01t%00", "dead|1")
    store = proxy._store
    # Twice: what is missing for the first time may be about to register.
    members = "SMEMBERS", "hbzmq:{default}:t:%01e%01t%00"
    proxy.close()
    wait_until(lambda: not proxy._running)
    store.client.open()
    store.clean([TOPIC])
    assert set(redis_server.command(*members)) == {b"a|1", b"dead|1"}
    store.clean([TOPIC])
    assert redis_server.command(*members) == [b"a|1"]
    store.client.close()


# -- it fails -----------------------------------------------------------------


def test_known_routes_stay_while_redis_is_killed_and_when_it_is_empty(
    directory: Open, redis_server: RedisServer
) -> None:
    proxy, client = registered(directory)
    other = directory()
    assert hosts(other) == {"a": ("1",)}
    redis_server.kill()
    wait_until(lambda: not client.routes(TOPIC, soon()).reachable)
    for _ in range(20):
        assert hosts(client) == {"a": ("1",)}
    # One that is not known is answered at once, not at the deadline.
    unknown = client.routes(OTHER, soon())
    assert (unknown.routes, unknown.reachable) == ((), False)
    assert not proxy.register(record("a"), listener("2"), time.monotonic() + 0.1)
    redis_server.start()
    wait_until(lambda: hosts(client) == {"a": ("1", "2")})
    assert client.routes(TOPIC, soon()).reachable
    assert hosts(directory()) == {"a": ("1", "2")}
    assert len(events("directory-lost")) >= 1
    assert events("directory-back")


def test_an_emptied_redis_that_no_proxy_has_written_to_proves_nothing(
    directory: Open, redis_server: RedisServer
) -> None:
    proxy, client = registered(directory, expire=1.0, update=0.1)
    proxy.close()
    wait_until(lambda: not proxy._running)
    redis_server.command("FLUSHALL")
    emptied = time.monotonic()
    while time.monotonic() - emptied < 2.5:
        found = client.routes(TOPIC, soon())
        assert [route.record.host for route in found.routes] == ["a"]
        time.sleep(0.05)


def test_data_that_is_lost_is_written_again_by_the_next_renewal(
    directory: Open, redis_server: RedisServer
) -> None:
    _, client = registered(directory, expire=1.5)
    redis_server.command("FLUSHALL")
    wait_until(lambda: redis_server.command("EXISTS", "hbzmq:{default}:h:a"))
    assert hosts(client) == hosts(directory()) == {"a": ("1",)}


def test_it_starts_without_redis(redis_server: RedisServer) -> None:
    with Relay(redis_server.host, redis_server.port) as relay:
        relay.refuse()
        with opening(f"redis://{relay.host}:{relay.port}") as open_one:
            proxy, client = open_one(), open_one()
            assert not proxy.register(record("a"), listener("1"), time.monotonic() + 0.1)
            assert not client.routes(TOPIC, soon()).reachable
            relay.accept()
            wait_until(lambda: hosts(client) == {"a": ("1",)})
            assert proxy.renew("a", soon())
    assert events("directory-lost")


def test_a_redis_that_hangs_costs_a_caller_no_more_than_its_deadline(
    redis_server: RedisServer,
) -> None:
    with (
        Relay(redis_server.host, redis_server.port) as relay,
        opening(f"redis://{relay.host}:{relay.port}") as open_one,
    ):
        proxy, client = registered(open_one, socket_timeout=1.0)
        relay.deaf()
        for _ in range(5):
            assert hosts(client) == {"a": ("1",)}
        assert client.routes(OTHER, time.monotonic() + 0.2).routes == ()
        assert not proxy.register(record("a"), listener("2"), time.monotonic() + 0.2)
        wait_until(lambda: not client.routes(TOPIC, soon()).reachable)
        assert hosts(client) == {"a": ("1",)}
        relay.resume()
        wait_until(lambda: hosts(client) == {"a": ("1", "2")})


def test_known_routes_stay_where_redis_hangs_until_leases_end(
    directory: Open, redis_container: Container
) -> None:
    """Shorter than the limit for an answer, so that no connection is lost."""
    proxy, client = registered(directory, expire=0.9, socket_timeout=30.0)
    watched = time.monotonic() + 2.0
    wait_until(lambda: time.monotonic() > watched and hosts(client))
    # As a proxy that tries again a moment later than the clients do.
    proxy.close()
    try:
        redis_container.run("sh", "-c", "kill -STOP $(pidof redis-server)")
        over = time.monotonic() + 1.0
        wait_until(lambda: time.monotonic() > over)
    finally:
        redis_container.run("sh", "-c", "kill -CONT $(pidof redis-server)")
    # The first answer after that: a key of which nothing is known is looked up.
    assert client.routes(OTHER, soon()).routes == ()
    assert hosts(client) == {"a": ("1",)}
    # It ends all the same, a lease later.
    wait_until(lambda: not hosts(client))


def test_a_redis_that_is_full_is_reported_and_written_to_later(
    directory: Open, redis_server: RedisServer
) -> None:
    proxy, client = registered(directory)
    redis_server.command("CONFIG", "SET", "maxmemory", "1")
    try:
        assert not proxy.register(record("b"), listener("2"), time.monotonic() + 0.5)
        wait_until(lambda: any("maxmemory" in each for each in events("directory-lost")))
        assert hosts(client) == {"a": ("1",)}
    finally:
        redis_server.command("CONFIG", "SET", "maxmemory", "0")
    wait_until(lambda: hosts(client) == {"a": ("1",), "b": ("2",)})


def test_no_pause_is_longer_than_the_time_between_two_renewals(directory: Open) -> None:
    found = itertools.islice(directory(expire=0.9)._new_pauses(), 100)
    assert max(found) <= 0.3


def test_a_slow_redis_is_waited_for(redis_server: RedisServer) -> None:
    keys = [key_of("e", f"a-long-name-of-a-topic-{number}") for number in range(50)]
    with (
        Relay(redis_server.host, redis_server.port) as relay,
        opening(f"redis://{relay.host}:{relay.port}") as open_one,
    ):
        proxy, client = registered(open_one, socket_timeout=20.0)
        relay.slow(40_000)
        assert proxy.register(record("a"), listener("2", TOPIC, *keys), soon())
        wait_until(lambda: hosts(client) == {"a": ("1", "2")})
        assert hosts(client, keys[-1]) == {"a": ("2",)}


@pytest.fixture
def secured(redis_server: RedisServer) -> Iterator[RedisServer]:
    redis_server.command("CONFIG", "SET", "requirepass", PASSWORD)
    try:
        yield redis_server
    finally:
        redis_server.command("CONFIG", "SET", "requirepass", "", password=PASSWORD)


@pytest.mark.parametrize("login", ["", ":wrong@", "user:wrong@"])
def test_a_wrong_password_is_one_event_without_it(secured: RedisServer, login: str) -> None:
    with opening(f"redis://{login}{secured.host}:{secured.port}") as open_one:
        client = open_one()
        for _ in range(3):
            assert not client.routes(TOPIC, soon()).reachable
        assert "wrong" not in repr(client._address)
    (reason,) = events("directory-refused")
    assert "correct the password" in reason
    assert "wrong" not in reason.replace("WRONGPASS", "")


def test_the_right_password_is_taken(secured: RedisServer) -> None:
    with opening(f"redis://:{PASSWORD}@{secured.host}:{secured.port}") as open_one:
        registered(open_one)
    assert not events("directory-refused")


def test_a_database_that_is_missing_is_one_event(redis_server: RedisServer) -> None:
    with opening(f"{redis_server.url}/999") as open_one:
        client = open_one()
        for _ in range(3):
            assert not client.routes(TOPIC, soon()).reachable
    (reason,) = events("directory-refused")
    assert "no such database" in reason


JUNK = st.binary(max_size=60) | st.sampled_from([b"{}", b"a|", b"|", b"\xff|1", b"a|1|2", b"%zz|1"])


@settings(
    database=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(members=st.lists(JUNK, max_size=4), text=JUNK, announced=JUNK, spoilt=st.booleans())
def test_an_invalid_record_neither_stops_nor_misleads(
    directory: Open,
    redis_server: RedisServer,
    members: list[bytes],
    text: bytes,
    announced: bytes,
    spoilt: bool,
) -> None:
    redis_server.command("FLUSHALL")
    prefix = "hbzmq:{default}:"
    topic = f"{prefix}t:%01e%01t%00"
    if spoilt:
        redis_server.command("LPUSH", topic, "no set")
        redis_server.command("HSET", f"{prefix}h:a", "no", "record")
    proxy, client = registered(directory)
    for member in (*members, b"hand|made"):
        redis_server.command("SADD", topic, member)
    redis_server.command("SET", f"{prefix}h:hand", text)
    redis_server.command("SET", f"{prefix}h:{members[0].hex() if members else 'x'}", text)
    redis_server.command("PUBLISH", f"{prefix}changes", announced)
    fresh = directory()
    assert hosts(fresh)["a"] == ("1",)
    assert set(hosts(fresh)) <= {"a"}
    assert proxy.register(record("a"), listener("2"), soon())
    wait_until(lambda: set(hosts(client).get("a", ())) >= {"1", "2"})
    for each in (proxy, client, fresh):
        each.close()


# -- the program around it ----------------------------------------------------

PROGRAM = f"""
import os, sys, time
sys.path[:0] = {[os.getcwd(), *sys.path]!r}
{{patch}}
from hbshim.messaging.zmq.directory.address import read_address
from hbshim.messaging.zmq.directory.redis import RedisDirectory
from hbshim.messaging.zmq.directory.settings import DirectorySettings
from tests.messaging.zmq.directories import hosts, listener, record, soon
directory = RedisDirectory(read_address(sys.argv[1]), DirectorySettings(expire=float(sys.argv[2])))
assert directory.register(record("a"), listener("1"), soon())
assert hosts(directory) == {{{{"a": ("1",)}}}}
"""
BLOCK = """
print("blocked", flush=True)
import ctypes
ctypes.CDLL(None).sleep(120)
"""
FORK = """
child = os.fork()
if child == 0:
    # It knows what was known, and does not speak for its parent.
    found = directory.routes(b"\\x01e\\x01t\\x00", soon())
    assert [route.record.host for route in found.routes] == ["a"], found
    assert not directory.renew("a", soon())
    assert directory.withdraw("a", None, soon())
    assert hosts(directory, b"other") == {}
    assert directory.routes(b"another", soon()).reachable
    assert directory.register(record("child"), listener("c"), soon())
    print("child", flush=True)
    os.kill(os.getppid(), 9)
    time.sleep(120)
os.wait()
"""
PATCHES = {
    "native": "",
    "eventlet": (
        "import warnings; warnings.simplefilter('ignore')\nimport eventlet; eventlet.monkey_patch()"
    ),
    "gevent": "from gevent import monkey; monkey.patch_all()",
}


@contextmanager
def program(body: str, model: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-W", "ignore", "-c", PROGRAM.format(patch=PATCHES[model]) + body]
    process = subprocess.Popen(
        [*argv, *arguments], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    try:
        yield process
    finally:
        os.killpg(process.pid, 9)
        process.stdout.close()
        process.wait()


@pytest.mark.parametrize("model", ["eventlet", "gevent"])
def test_a_program_that_is_blocked_keeps_its_lease(redis_server: RedisServer, model: str) -> None:
    key = "hbzmq:{default}:h:a"
    with program(BLOCK, model, redis_server.url, "1.5") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "blocked\n"
        later = time.monotonic() + 3.0
        wait_until(lambda: time.monotonic() > later and redis_server.command("PTTL", key) > 0)
        # The control: stopped as a whole, it renews nothing.
        process.send_signal(19)
        wait_until(lambda: redis_server.command("PTTL", key) == -2)


@pytest.mark.parametrize("model", ["native", "eventlet"])
def test_a_forked_child_reads_and_does_not_renew(redis_server: RedisServer, model: str) -> None:
    with program(FORK, model, redis_server.url, "1.5") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "child\n"
        # The parent is dead, and its child alive with a host of its own.
        wait_until(lambda: redis_server.command("PTTL", "hbzmq:{default}:h:a") == -2)
        wait_until(lambda: redis_server.command("PTTL", "hbzmq:{default}:h:child") > 0)


def test_a_host_is_withdrawn_while_a_lookup_ends_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller reads its routes all the same, and the directory's thread changes them."""
    directory = RedisDirectory(read_address("redis://127.0.0.1:1"), DirectorySettings())
    # Without its thread.
    directory._running = True
    read: list[Routes] = []
    errors: list[Exception] = []

    def look_up(key: bytes, _deadline: float) -> bool:
        found = [(Route(record(host)), 30.0) for host in ("a", "b", "c")]
        with directory._lock.native:
            directory._cache.put(key, found, time.monotonic())
        return False

    def withdraw() -> None:
        with directory._lock.native:
            directory._cache.withdraw("c", "")

    def routes() -> None:
        try:
            read.append(directory.routes(TOPIC, soon()))
        except Exception as error:
            errors.append(error)

    def prepare() -> tuple[Callable[[], object], Callable[[], object]]:
        directory._cache = RouteCache(30.0)
        return routes, withdraw

    def check() -> None:
        assert not errors
        assert {route.record.host for route in read[-1].routes} - {"c"} == {"a", "b"}

    monkeypatch.setattr(directory, "_wait_for_lookup", look_up)
    monkeypatch.setattr("tests.interrupts.STANDS_STILL", 0.02)
    assert interleave_everywhere(prepare, check, every=5, opcodes=True) > 10
    directory._running = False
    directory.close()
