"""Hosts that are killed, hang, leave or are taken for others: what becomes of the calls.

Each test has a control that fails; see test_network.py.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from tests.messaging.zmq.machines import Machine
from tests.messaging.zmq.nodes import LIMIT, figure
from tests.messaging.zmq.peer_process import Lateness, Peer
from tests.messaging.zmq.stage import (
    CONTROL_PORTS,
    DETECTED,
    ENDED,
    LEASE,
    Stage,
    T,
    answered_by,
    call_until,
    failed,
    long,
    ran_twice,
)
from tests.waiting import wait_until

pytestmark = pytest.mark.alone


def test_the_death_of_a_server_is_known_within_two_seconds(stage: Stage) -> None:
    """The control is a call over ZeroMQ alone."""
    at, there = stage.machines(2)
    host = stage.host(there, "host")
    client = stage.client(at, host)
    client.command("call", number=1, seconds=600, timeout=600)
    wait_until(lambda: host.server.ran, LIMIT)
    with Lateness() as lateness, bare_call() as waiting:
        host.server.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        wait_until(lambda: client.outcomes, LIMIT)
        assert not waiting.poll(0)
    (outcome,) = client.outcomes
    assert outcome.error == "LostServerError"
    assert outcome.ended - killed <= 2 + lateness.allowance


@contextmanager
def bare_call() -> Iterator[zmq.Socket[bytes]]:
    """A socket that waits for the reply of a process that was killed meanwhile."""
    script = """
import sys, zmq
socket = zmq.Context().socket(zmq.REP)
print(socket.bind_to_random_port("tcp://127.0.0.1"), flush=True)
socket.recv()
print("received", flush=True)
sys.stdin.read()
"""
    server = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        assert server.stdout is not None
        socket = context.socket(zmq.REQ)
        socket.connect(f"tcp://127.0.0.1:{server.stdout.readline().strip()}")
        socket.send(b"work")
        assert server.stdout.readline() == "received\n"
        server.kill()
        yield socket
    finally:
        context.destroy(linger=0)
        server.kill()
        server.communicate()


def answered_since(time: float, client: Peer, host: str) -> bool:
    return any(each.host == host and each.began > time for each in client.outcomes)


@long
def test_a_server_that_hangs_is_left_out_and_comes_back(stage: Stage) -> None:
    """Between proxy and server T is 2 here, too. The control has no heartbeats."""
    at, first, second = stage.machines(3)
    hung, other = stage.host(first, "hung"), stage.host(second, "other")
    client = stage.client(at, hung, other)
    mute = stage.host(first, "mute", heartbeat=0, ports=CONTROL_PORTS)
    control = stage.client(at, mute, heartbeat=0)
    client.command("load", threads=8, seconds=0.05, timeout=60, pause=0.01)
    control.command("load", threads=1, seconds=0, timeout=60, pause=0)
    wait_until(lambda: answered_by(client) == {"hung", "other"}, LIMIT)
    wait_until(lambda: answered_by(control) == {"mute"}, LIMIT)
    with Lateness() as lateness:
        for host in (hung, mute):
            host.server.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        call_until(client, stopped + ENDED)
        stuck = [each for each in control.outcomes if each.ended > stopped + 1]
        for host in (hung, mute):
            host.server.send_signal(signal.SIGCONT)
        again = time.monotonic()
        wait_until(lambda: answered_since(again, client, "hung"), LIMIT)
        outcomes = client.rest()
    lost = failed(outcomes)
    assert {each.error for each in lost} == {"LostServerError"}
    assert max(each.began for each in lost) - stopped <= DETECTED + lateness.allowance
    assert max(each.ended for each in lost) - stopped <= ENDED + lateness.allowance
    assert ran_twice(hung, other) == []
    assert stuck == []


def test_a_proxy_that_hangs_is_left_out_and_comes_back(stage: Stage) -> None:
    """For 3 T. The control has no heartbeats."""
    at, first, second = stage.machines(3)
    hung, other = stage.host(first, "hung"), stage.host(second, "other")
    client = stage.client(at, hung, other)
    mute = stage.host(first, "mute", heartbeat=0, ports=CONTROL_PORTS)
    control = stage.client(at, mute, heartbeat=0)
    client.command("load", threads=8, seconds=0.05, timeout=60, pause=0.01)
    control.command("load", threads=1, seconds=0, timeout=60, pause=0)
    wait_until(lambda: answered_by(client) == {"hung", "other"}, LIMIT)
    wait_until(lambda: answered_by(control) == {"mute"}, LIMIT)
    with Lateness() as lateness:
        for host in (hung, mute):
            host.node.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        call_until(client, stopped + 3 * T)
        stuck = [each for each in control.outcomes if each.ended > stopped + 1]
        for host in (hung, mute):
            host.node.send_signal(signal.SIGCONT)
        again = time.monotonic()
        wait_until(lambda: answered_since(again, client, "hung"), LIMIT)
        outcomes = client.rest()
    lost = failed(outcomes)
    assert {each.error for each in lost} == {"LostServerError"}
    assert max(each.began for each in lost) - stopped <= DETECTED + lateness.allowance
    assert max(each.ended for each in lost) - stopped <= ENDED + lateness.allowance
    assert ran_twice(hung, other) == []
    assert stuck == []


def test_one_of_two_hosts_leaves_without_a_failed_call(stage: Stage) -> None:
    """The control is a host that is killed."""
    at, first, second, third = stage.machines(4)
    leaves, killed, stays = (
        stage.host(machine, name)
        for machine, name in ((first, "leaves"), (second, "killed"), (third, "stays"))
    )
    client = stage.client(at, leaves, killed, stays)
    client.command("load", threads=8, seconds=0.05, timeout=60, pause=0)
    wait_until(lambda: answered_by(client) == {"leaves", "killed", "stays"}, LIMIT)
    assert leaves.server.stop()
    assert leaves.node.end() == 0
    left = time.monotonic()
    wait_until(lambda: client.outcomes[-1].began > left + 0.5, LIMIT)
    assert failed(client.outcomes) == []
    for kill in (killed.server.send_signal, killed.node.send_signal):
        kill(signal.SIGKILL)
    ended = time.monotonic()
    wait_until(lambda: client.outcomes[-1].began > ended + 0.5, LIMIT)
    outcomes = client.rest()
    assert {each.error for each in failed(outcomes)} == {"LostServerError"}
    assert {each.host for each in outcomes if each.began > ended and not each.error} == {"stays"}
    assert ran_twice(leaves, killed, stays) == []


@pytest.mark.parametrize("clock", [3600.0, pytest.param(-3600.0, marks=long)])
def test_a_clock_that_is_wrong_by_an_hour_changes_nothing(stage: Stage, clock: float) -> None:
    """The server's, then also the proxy's. The control: their clocks are wrong."""
    at, first, second = stage.machines(3)
    wrong, right = stage.host(first, "wrong", clock=clock), stage.host(second, "right")
    client = stage.client(at, wrong, right, clock=-clock)
    assert wrong.server.clock_error == pytest.approx(clock, abs=60)
    assert client.clock_error == pytest.approx(-clock, abs=60)
    client.command("load", threads=4, seconds=0, timeout=10, pause=0)
    wait_until(lambda: len(client.outcomes) > 200, LIMIT)
    outcomes = client.rest()
    assert failed(outcomes) == []
    assert answered_by(client) == {"wrong", "right"}


@pytest.fixture
def directory(tmp_path: Path) -> str:
    """The folder of the proxies that know each other."""
    (tmp_path / "directory").mkdir(mode=0o700)
    return f"file://{tmp_path / 'directory'}"


def test_a_record_of_a_host_that_is_gone_does_not_lead_to_another_one(
    stage: Stage, directory: str
) -> None:
    """Its address is now that of a host of another deployment, which has such a server, too.

    The control knows the address only, and so it is answered by the wrong host.
    """
    at, first, second = stage.machines(3)
    gone = stage.host(first, "gone", directory=directory)
    client = stage.client(at, gone, directory=directory)
    client.command("call", number=1, seconds=0, timeout=LIMIT)
    wait_until(lambda: answered_by(client) == {"gone"}, LIMIT)
    for kill in (gone.server.send_signal, gone.node.send_signal):
        kill(signal.SIGKILL)
    gone.node.wait()
    stage.network.give_address(first, to=second)
    stranger = stage.host(Machine(first.address, second.namespace), "stranger")
    client.command("call", number=2, seconds=0, timeout=3)
    control = stage.client(at, stranger)
    control.command("call", number=3, seconds=0, timeout=LIMIT)
    wait_until(lambda: answered_by(control) == {"stranger"}, LIMIT)
    wait_until(lambda: len(client.outcomes) == 2, LIMIT)
    assert client.outcomes[1].error in ("CallTimeoutError", "LostServerError")
    assert stranger.server.ran == [3]


def test_a_host_with_another_name_takes_over_an_address(stage: Stage, directory: str) -> None:
    """As a machine that is renamed: its old record is still there.

    The client drops the old host after a while, and not the connection to the new one.
    """
    at, there = stage.machines(2)
    old = stage.host(there, "old", directory=directory)
    client = stage.client(at, old, directory=directory, idle=1)
    client.command("load", threads=4, seconds=0, timeout=60, pause=0.01)
    wait_until(lambda: answered_by(client) == {"old"}, LIMIT)
    for kill in (old.server.send_signal, old.node.send_signal):
        kill(signal.SIGKILL)
    old.node.wait()
    new = stage.host(there, "new", directory=directory)
    wait_until(lambda: "new" in answered_by(client), LIMIT)
    taken = time.monotonic()
    wait_until(lambda: client.outcomes[-1].began > taken + LEASE + 2.5, LIMIT)
    outcomes = client.rest()
    assert failed([each for each in outcomes if each.began > taken]) == []
    assert max(each.ended - each.began for each in outcomes if each.began > taken) < 1.5
    assert ran_twice(new) == []


def test_a_client_that_is_killed_while_its_replies_arrive_disturbs_no_other(stage: Stage) -> None:
    """Its replies are held for its return, and the proxy waits for nothing.

    The control is in test_traps.py: a router that is not mandatory drops them without a word.
    """
    at, other, there = stage.machines(3)
    host = stage.host(there, "host")
    killed, client = stage.client(at, host), stage.client(other, host)
    client.command("load", threads=2, seconds=0, timeout=LIMIT, pause=0.01)
    # Long enough that most replies come after the client has gone, however late that is noticed.
    killed.command("load", threads=1000, seconds=0.02, timeout=LIMIT, pause=LIMIT)
    wait_until(lambda: len(killed.outcomes) > 100, LIMIT)
    killed.send_signal(signal.SIGKILL)
    ended = time.monotonic()
    wait_until(lambda: figure(host.node, "outstanding") <= 2, LIMIT)
    wait_until(lambda: client.outcomes[-1].began > ended + 1, LIMIT)
    assert failed(client.rest()) == []
    assert 0 < figure(host.node, "replies_held") <= 1000
    assert figure(host.node, "waiting") == 0
    assert ran_twice(host) == []
