"""What publishers conclude from subscriptions, against a model."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from hbshim.messaging.zmq.frames import key_of, notification_key
from hbshim.messaging.zmq.subscriptions import (
    Subscribers,
    end_marker,
    fanout_subscription,
    pool_subscription,
)

NAMES = st.text(max_size=60)
INSTANCES = [bytes([number]) * 16 for number in range(4)]
KEYS = [notification_key("one", "events", "info"), notification_key("one", "events", "error")]
POOLS = ["", "one", "é/"]


@given(st.lists(st.tuples(NAMES, NAMES), min_size=2, max_size=6, unique=True))
def test_no_subscription_is_the_beginning_of_another_and_the_marker_is_the_last(
    names: list[tuple[str, str]],
) -> None:
    subscriptions = [fanout_subscription(key_of(*each)) for each in names]
    for exchange, topic in names:
        key = notification_key(exchange, topic, "info")
        subscriptions += [pool_subscription(key, pool, INSTANCES[0]) for pool in POOLS]
    for one, other in itertools.permutations(subscriptions, 2):
        assert not other.startswith(one)
    assert max(subscriptions) < end_marker(INSTANCES[0])


CHANGES = st.lists(
    st.tuples(
        st.booleans(), st.sampled_from(KEYS), st.sampled_from(POOLS), st.sampled_from(INSTANCES)
    ),
    max_size=40,
)


@given(CHANGES)
def test_pools_are_those_that_are_subscribed(changes: list[tuple[bool, bytes, str, bytes]]) -> None:
    subscribers = Subscribers()
    model: set[tuple[bytes, str, bytes]] = set()
    for subscribed, key, pool, instance in changes:
        subscribers.take(bytes([subscribed]) + pool_subscription(key, pool, instance))
        (model.add if subscribed else model.discard)((key, pool, instance))
    for key in KEYS:
        found = {
            (key, pool.decode(), instance)
            for pool, members in subscribers.pools(key).items()
            for instance in members
        }
        assert found == {each for each in model if each[0] == key}


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(INSTANCES)), max_size=20))
def test_a_listener_is_complete_from_its_marker_on(changes: list[tuple[bool, bytes]]) -> None:
    subscribers = Subscribers()
    model: set[bytes] = set()
    for subscribed, instance in changes:
        subscribers.take(bytes([subscribed]) + end_marker(instance))
        (model.add if subscribed else model.discard)(instance)
    assert subscribers.missing(INSTANCES) == set(INSTANCES) - model


@given(st.binary(max_size=200))
def test_what_others_subscribe_to_is_taken(subscription: bytes) -> None:
    subscribers = Subscribers()
    subscribers.take(b"\1" + subscription)
    subscribers.take(b"\0" + subscription)
    subscribers.take(subscription)
