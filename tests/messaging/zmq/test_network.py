"""A network that breaks between machines: how soon it is known, and what becomes of the calls.

Each test has a control that fails: the same without the option. Bounds are those of docs/zmq.md,
and what a starved machine adds (:class:`Lateness`). `make test` runs a part of them;
HBSHIM_ZMQ_NETWORK=all runs the rest, too.
"""

from __future__ import annotations

import time

import pytest

from tests.messaging.zmq.nodes import LIMIT
from tests.messaging.zmq.peer_process import Lateness
from tests.messaging.zmq.stage import (
    CONTROL_PORTS,
    DETECTED,
    ENDED,
    Stage,
    answered_by,
    call_until,
    failed,
    long,
    ran_twice,
)
from tests.waiting import wait_until

pytestmark = pytest.mark.alone


@pytest.mark.parametrize(
    "ways",
    [
        pytest.param("both"),
        pytest.param("to-host", marks=long),
        pytest.param("to-client", marks=long),
    ],
)
def test_a_deaf_network_is_noticed_and_calls_go_to_the_other_host(stage: Stage, ways: str) -> None:
    at, first, second = stage.machines(3)
    one, other = stage.host(first, "one"), stage.host(second, "other")
    client = stage.client(at, one, other)
    # The control has no heartbeats, and TCP keepalive does not fire while data is in flight.
    mute = stage.host(first, "mute", heartbeat=0, ports=CONTROL_PORTS)
    control = stage.client(at, mute, heartbeat=0)
    control.command("load", threads=1, seconds=0, timeout=60, pause=0)
    client.command("load", threads=8, seconds=0.05, timeout=60, pause=0.01)
    wait_until(lambda: answered_by(client) == {"one", "other"}, LIMIT)
    wait_until(lambda: answered_by(control) == {"mute"}, LIMIT)

    with Lateness() as lateness:
        if ways != "to-client":
            first.drop_from(at)
        if ways != "to-host":
            at.drop_from(first)
        broken = time.monotonic()
        call_until(client, broken + ENDED)
        stuck = [each for each in control.outcomes if each.ended > broken + 1]
        outcomes = client.rest()
        wait_until(lambda: all(each.ended for each in client.outcomes), LIMIT)
    lost = failed(outcomes)
    assert {each.error for each in lost} == {"LostServerError"}
    assert max(each.began for each in lost) - broken <= DETECTED + lateness.allowance
    assert max(each.ended for each in lost) - broken <= ENDED + lateness.allowance
    later = [each for each in outcomes if each.began > broken + DETECTED + lateness.allowance]
    assert {each.host for each in later} == {"other"}
    assert ran_twice(one, other) == []
    assert stuck == []


@long
def test_a_hiccup_that_is_shorter_than_t_fails_no_call(stage: Stage) -> None:
    """The control has a T that is shorter than the hiccup."""
    at, there = stage.machines(2)
    host = stage.host(there, "host", heartbeat=10)
    client = stage.client(at, host, heartbeat=10)
    hasty = stage.host(there, "hasty", heartbeat=1, ports=CONTROL_PORTS)
    control = stage.client(at, hasty, heartbeat=1)
    for each in (client, control):
        each.command("load", threads=4, seconds=0.02, timeout=60, pause=0.01)
        wait_until(lambda each=each: answered_by(each), LIMIT)  # type: ignore[misc]
    there.drop_from(at)
    at.drop_from(there)
    broken = time.monotonic()
    call_until(client, broken + 3)
    there.heal()
    at.heal()
    for each in (client, control):
        wait_until(
            lambda each=each: each.outcomes[-1].began > broken + 3 and each.outcomes[-1].host,  # type: ignore[misc]
            LIMIT,
        )
    assert failed(client.rest()) == []
    assert failed(control.rest())
    assert ran_twice(host) == ran_twice(hasty) == []


@long
def test_a_storm_of_resets_ends_each_call_once(stage: Stage) -> None:
    """Each call that is lost on the way is sent again, or known to be lost."""
    at, there = stage.machines(2)
    host = stage.host(there, "host")
    client = stage.client(at, host)
    client.command("load", threads=8, seconds=0.02, timeout=60, pause=0)
    wait_until(lambda: answered_by(client), LIMIT)
    with Lateness() as lateness:
        at.reset_from(there, 0.02)
        there.reset_from(at, 0.02)
        before = len(client.outcomes)
        wait_until(lambda: len(client.outcomes) > before + 100, 2 * LIMIT)
        at.heal()
        there.heal()
        healed = time.monotonic()
        wait_until(lambda: client.outcomes[-1].began > healed + 1, LIMIT)
        outcomes = client.rest()
    assert {each.error for each in outcomes} <= {"", "LostServerError"}
    assert len({each.number for each in outcomes}) == len(outcomes)
    assert max(each.ended - each.began for each in outcomes) < ENDED + 5 + lateness.allowance
    assert ran_twice(host) == []
