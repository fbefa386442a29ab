"""Names: different ones share nothing, none is too long, and ordinary ones are easy to read."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbshim.errors import OptionError
from hbshim.messaging.amqp import names
from hbshim.messaging.amqp.options import AmqpOptions
from hbshim.messaging.amqp.retries import dead_letter_name
from hbshim.messaging.amqp.topology import Subscription, Topology
from hbshim.messaging.base import PRIORITIES
from hbshim.messaging.target import Target

LONGEST = 255

#: One exchange for everything, as a user may choose it: then only the rest of a name differs.
SHARED = "x"
TOPOLOGY = Topology(
    AmqpOptions(
        default_rpc_exchange=SHARED,
        default_notification_exchange=SHARED,
        rpc_reply_exchange=SHARED,
    )
)


class Use(NamedTuple):
    """What an exchange, a queue and a routing key are for."""

    kind: str
    exchange: str
    topic: str = ""
    server: str | None = None
    priority: str = ""
    pool: str | None = None
    unique: str = ""
    number: int = 0


def subscription(use: Use) -> Subscription:
    if use.kind == "replies":
        return TOPOLOGY.replies(use.unique, use.number)
    target = Target(use.topic, server=use.server, exchange=use.exchange)
    if use.kind == "rpc":
        return TOPOLOGY.rpc(target)
    if use.kind == "fanout":
        return TOPOLOGY.fanout(target, use.unique)
    return TOPOLOGY.notifications(target, use.priority, use.pool)


#: Few characters, so that parts meet: those with a meaning, and those of encoded ones.
text = st.one_of(
    st.text("a.%*~_2E", max_size=4),
    st.sampled_from([*PRIORITIES, "%69nfo", "x_fanout", "x%5Ffanout", "*1", "e" * 300]),
    st.text("aß€\U0001f407", max_size=3),
)
name = text.filter(bool)
exchanges = st.one_of(name, st.sampled_from([SHARED, "x_fanout", "x%5Ffanout", "x.t", "x%2Et"]))
uses = st.one_of(
    st.tuples(exchanges, name, st.none() | text).map(lambda parts: Use("rpc", *parts)),
    st.tuples(exchanges, name, text).map(
        lambda parts: Use("fanout", parts[0], parts[1], unique=parts[2])
    ),
    st.tuples(exchanges, name, st.sampled_from(PRIORITIES) | text, st.none() | name).map(
        lambda parts: Use("notifications", *parts[:2], priority=parts[2], pool=parts[3])
    ),
    st.tuples(name, st.integers(0, 12)).map(
        lambda parts: Use("replies", SHARED, unique=parts[0], number=parts[1])
    ),
)


def address(use: Use) -> object:
    """What decides where a message goes: a pool and a number share it with others."""
    if use.kind == "fanout":
        return use._replace(unique="")
    return use._replace(pool=None, number=0)


@given(uses, uses)
def test_different_uses_share_no_queue_and_no_address(one: Use, other: Use) -> None:
    first, second = subscription(one), subscription(other)
    assert (first.queue.name == second.queue.name) == (one == other)
    to_first = (first.exchange, first.routing_key)
    to_second = (second.exchange, second.routing_key)
    assert (to_first == to_second) == (address(one) == address(other))


@given(exchanges, exchanges)
def test_an_exchange_and_the_one_beside_it_are_two(one: str, other: str) -> None:
    assert names.exchange(one) != names.fanout_exchange(other)
    assert (names.exchange(one) == names.exchange(other)) == (one == other)
    assert (names.fanout_exchange(one) == names.fanout_exchange(other)) == (one == other)


@given(uses)
def test_every_name_fits(use: Use) -> None:
    made = subscription(use)
    for each in (made.queue.name, made.exchange, made.routing_key):
        assert 0 < len(each.encode()) <= LONGEST


@given(uses.filter(lambda use: use.kind in ("rpc", "fanout")))
def test_a_client_sends_where_a_server_listens(use: Use) -> None:
    made = subscription(use)
    target = Target(use.topic, server=use.server, exchange=use.exchange)
    if use.kind == "rpc":
        sent = (TOPOLOGY.rpc_exchange(target), TOPOLOGY.rpc_key(target))
    else:
        sent = (TOPOLOGY.fanout_exchange(target), TOPOLOGY.fanout_key(target))
    assert sent == (made.exchange, made.routing_key)


def test_ordinary_names_are_easy_to_read() -> None:
    topology = Topology(AmqpOptions())
    target = Target("compute", server="host-1@lvm#pool_0")
    rpc = topology.rpc(target)
    assert rpc.queue.name == "openstack_rpc.compute.host-1@lvm#pool_0"
    assert (rpc.exchange, rpc.routing_key) == ("openstack_rpc", "compute.host-1@lvm#pool_0")
    fanout = topology.fanout(target, "1")
    assert fanout.queue.name == "openstack_rpc_fanout.compute.1"
    assert (fanout.exchange, fanout.routing_key) == ("openstack_rpc_fanout", "compute")
    info = topology.notifications(Target("events"), "info", "pool")
    assert info.queue.name == "openstack_notification.pool.events.info"
    assert (info.exchange, info.routing_key) == ("openstack_notification", "events.info")
    assert topology.rpc(Target("a.b", server="c.d")).routing_key == "a%2Eb.c%2Ed"


def test_no_servers_queue_is_a_dead_letter_queue() -> None:
    for target in (Target("t"), Target("t", server="a"), Target("t", server="dead")):
        dead = dead_letter_name(TOPOLOGY.rpc(target).queue.name)
        assert dead != TOPOLOGY.rpc(Target("t", server="dead")).queue.name
        assert TOPOLOGY.rpc(Target("t", server="%64ead")).queue.name != (
            TOPOLOGY.rpc(Target("t", server="dead")).queue.name
        )


def test_a_long_name_keeps_its_beginning() -> None:
    made = TOPOLOGY.rpc(Target("topic", server="ß" * 200)).queue.name
    assert made.startswith("x.topic.ßßß")
    assert made != TOPOLOGY.rpc(Target("topic", server="ß" * 201)).queue.name


def test_what_is_no_text_is_refused() -> None:
    for use in (Use("rpc", "x", "\ud800"), Use("rpc", "\ud800", "t")):
        with pytest.raises(OptionError, match="use another one"):
            subscription(use)
