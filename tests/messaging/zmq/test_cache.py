"""When a host is dropped from what is known, and when it is not."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbshim.messaging.zmq.directory import Route
from hbshim.messaging.zmq.directory.cache import NEGATIVE, UNUSED, RouteCache
from tests.messaging.zmq.directories import ONE, OTHER, TOPIC, record

#: No limits of time: the machine may be loaded.
CALM = settings(database=None, max_examples=60)
LEASE = 15.0
A, B = Route(record("a"), ("a1", "a2")), Route(record("b"), ("b1",))


def reachable(since: float = 0.0) -> RouteCache:
    cache = RouteCache(LEASE)
    cache.reached(b"epoch", since)
    return cache


def known(cache: RouteCache, key: bytes = TOPIC, now: float = 0.0) -> list[str] | None:
    found = cache.find(key, now)
    return None if found is None else [route.record.host for route in found]


def test_a_known_route_is_found_however_old_it_is() -> None:
    cache = reachable()
    assert known(cache) is None
    assert cache.put(TOPIC, [(B, LEASE), (A, LEASE)], 0.0)
    assert known(cache, now=1e6) == ["a", "b"]
    assert known(cache, OTHER) is None


def test_nothing_found_is_believed_for_a_second() -> None:
    cache = reachable()
    cache.put(TOPIC, [], 10.0)
    assert known(cache, now=10.5) == []
    assert known(cache, now=10.0 + NEGATIVE) is None


def test_a_lease_that_ended_drops_the_host_where_the_directory_was_there_throughout() -> None:
    cache = reachable()
    cache.put(TOPIC, [(A, LEASE), (B, LEASE)], 1.0)
    assert cache.next_end(1.0) == 1.0 + LEASE
    # Seen to be missing too early: it may be that the directory itself is young.
    assert not cache.put(TOPIC, [(A, LEASE)], LEASE - 0.1)
    assert known(cache) == ["a", "b"]
    assert cache.put(TOPIC, [(A, LEASE)], LEASE)
    assert known(cache) == ["a"]


@pytest.mark.parametrize("epoch", [b"another", None])
def test_a_directory_that_is_newly_empty_proves_nothing(epoch: bytes | None) -> None:
    cache = reachable()
    cache.put(TOPIC, [(A, LEASE)], 100.0)
    cache.reached(epoch, 200.0)
    cache.put(TOPIC, [], 200.0 + LEASE - 0.1)
    assert known(cache) == ["a"]
    # A lease later each host that is up has registered again. If none has, the proxies may be the
    # ones that cannot reach it.
    cache.reached(epoch, 200.0 + LEASE / 2)
    cache.reached(epoch, 200.0 + LEASE)
    cache.put(TOPIC, [], 200.0 + LEASE)
    assert known(cache) == (None if epoch else ["a"]) or cache.find(TOPIC, 200.0 + LEASE) == ()
    assert bool(cache.peek(TOPIC)) is (epoch is None)


def test_a_directory_that_was_away_proves_nothing_for_a_lease() -> None:
    cache = reachable()
    cache.put(TOPIC, [(A, LEASE)], 100.0)
    cache.lost()
    assert known(cache, now=10_000.0) == ["a"]
    cache.reached(b"epoch", 10_000.0)
    cache.put(TOPIC, [], 10_001.0)
    assert known(cache) == ["a"]
    cache.put(TOPIC, [], 10_000.0 + LEASE)
    assert cache.peek(TOPIC) == ()


@pytest.mark.parametrize("hung", [True, False])
def test_a_directory_that_hung_proves_nothing_for_a_lease(hung: bool) -> None:
    """No connection was lost; and leases ended that no proxy could renew."""
    cache = RouteCache(LEASE)
    for now in range(0, 101, 5):
        cache.reached(b"epoch", float(now))
    cache.put(TOPIC, [(A, LEASE)], 100.0)
    end = 100.0 + (0.7 if hung else 0.6) * LEASE
    cache.reached(b"epoch", end)
    cache.put(TOPIC, [], end)
    assert cache.peek(TOPIC) == ((A,) if hung else ())
    for part in (1 / 3, 2 / 3, 1):
        cache.reached(b"epoch", end + part * LEASE)
    cache.put(TOPIC, [], end + LEASE)
    assert cache.peek(TOPIC) == ()


def test_withdrawal_drops_an_instance_and_then_the_host() -> None:
    cache = RouteCache(LEASE)
    for key in (TOPIC, ONE):
        cache.put(key, [(A, LEASE), (B, LEASE)], 0.0)
    assert not cache.withdraw("a", "unknown")
    assert cache.withdraw("a", "a1")
    assert [route.instances for route in cache.peek(ONE)] == [("a2",), ("b1",)]
    assert cache.withdraw("a", "a2")
    assert known(cache) == ["b"]
    assert cache.withdraw("b", "")
    assert cache.peek(TOPIC) == cache.peek(ONE) == ()


def test_a_host_that_does_not_serve_a_key_is_not_offered_again_at_once() -> None:
    cache = reachable()
    cache.put(TOPIC, [(A, LEASE)], 0.0)
    cache.put(ONE, [(A, LEASE)], 0.0)
    assert cache.forget(TOPIC, "a", 100.0)
    assert not cache.forget(TOPIC, "a", 100.0)
    cache.put(TOPIC, [(A, LEASE)], 100.1)
    assert known(cache, now=100.1) == []
    assert known(cache, ONE) == ["a"]
    cache.put(TOPIC, [(A, LEASE)], 100.0 + NEGATIVE)
    assert known(cache) == ["a"]


@pytest.mark.parametrize("announced", [True, False])
def test_a_host_is_offered_again_when_it_registers_or_restarts(announced: bool) -> None:
    cache = reachable()
    cache.put(TOPIC, [(A, LEASE)], 0.0)
    cache.forget(TOPIC, "a", 1.0)
    if announced:
        assert cache.added("a", [TOPIC, OTHER]) == [TOPIC]
        assert known(cache, now=1.0) is None
        cache.put(TOPIC, [(A, LEASE)], 1.0)
    else:
        cache.put(TOPIC, [(Route(record("a", "2")), LEASE)], 1.0)
    assert known(cache, now=1.0) == ["a"]


def test_keys_that_are_not_used_are_not_kept() -> None:
    cache = reachable()
    cache.put(TOPIC, [(A, LEASE)], 0.0)
    cache.put(OTHER, [(A, LEASE)], 0.0)
    cache.find(TOPIC, UNUSED)
    cache.drop_unused(UNUSED + 1)
    assert cache.keys == [TOPIC]


@CALM
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.sets(st.sampled_from("ab"))),
            st.tuples(st.just("lost"), st.none()),
            st.tuples(st.just("reached"), st.sampled_from([b"1", b"2", None])),
        ),
        max_size=30,
    ),
    st.lists(st.floats(0.1, LEASE), min_size=30, max_size=30),
)
def test_a_host_is_never_dropped_unless_a_whole_lease_was_watched(
    steps: list[tuple[str, object]], pauses: list[float]
) -> None:
    cache, now = RouteCache(LEASE), 0.0
    routes = {"a": A, "b": B}
    cache.put(TOPIC, [(each, LEASE) for each in routes.values()], now)
    since, epoch, answered = math.inf, None, -math.inf
    held = set(routes)
    for (step, argument), pause in zip(steps, pauses, strict=False):
        now += pause
        if step == "lost":
            cache.lost()
            since = math.inf
        elif step == "reached":
            assert argument is None or isinstance(argument, bytes)
            cache.reached(argument, now)
            if argument is None:
                since = math.inf
            elif since == math.inf or argument != epoch or now - answered > LEASE - LEASE / 3:
                since = now
            epoch, answered = argument, now
        else:
            assert isinstance(argument, set)
            cache.put(TOPIC, [(routes[host], LEASE) for host in argument], now)
            held = argument if now - since >= LEASE else held | argument
        assert {route.record.host for route in cache.peek(TOPIC)} == held
