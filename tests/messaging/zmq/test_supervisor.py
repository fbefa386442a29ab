"""The processes of a proxy: independent of each other, started again, and ended together."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hbshim.errors import LostServerError
from hbshim.messaging import Client, Server, Target
from tests.messaging.endpoints import Endpoint
from tests.messaging.zmq.nodes import (
    COMMAND,
    LIMIT,
    InBackground,
    Node,
    children,
    listening_ports,
    refused,
)
from tests.waiting import wait_until

NAMES = {"requests", "fanout", "notify"}
PORTS = {"requests": {9501, 9504}, "fanout": {9502}, "notify": {9503}}

TARGET = Target("compute")


@pytest.fixture
def node(nodes: Callable[[], Node]) -> Node:
    """A host with the whole proxy."""
    made = nodes()
    made.start(whole=True)
    return made


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def status(node: Node) -> tuple[int, dict[str, dict[str, float] | None]]:
    command = [*COMMAND, "--ipc-dir", node.ipc, "--status", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    return done.returncode, json.loads(done.stdout)


def test_each_process_that_is_killed_is_started_again_alone(
    nodes: Callable[[], Node],
    serve: Callable[..., Server],
    endpoint: Endpoint,
    tmp_path: Path,
) -> None:
    node = nodes()
    with (tmp_path / "log").open("w") as log:
        node.start(log=log, whole=True)
    serve(node.driver(), TARGET, endpoint)
    client = Client(node.driver(), TARGET, timeout=LIMIT)
    before = children(node.pid)
    assert before.keys() == NAMES
    assert {name: listening_ports(pid) for name, pid in before.items()} == PORTS
    assert listening_ports(node.pid) == set()

    for killed in ("fanout", "notify", "requests"):
        os.kill(children(node.pid)[killed], signal.SIGKILL)
        if killed != "requests":
            assert client.call("echo", value=1) == 1
        wait_until(lambda: status(node)[0] == 0, LIMIT)
    after = children(node.pid)
    assert {name: listening_ports(pid) for name, pid in after.items()} == PORTS
    assert not set(after.values()) & set(before.values())
    assert client.call("echo", value=2) == 2
    said = (tmp_path / "log").read_text()
    assert all(f"{name} ended with status -9; it starts again in 0.1 s" in said for name in NAMES)


def test_the_processes_end_with_a_supervisor_that_is_killed(node: Node) -> None:
    pids = children(node.pid).values()
    assert len(pids) == 3
    node.end(signal.SIGKILL)
    wait_until(lambda: not any(map(is_running, pids)), LIMIT)


@pytest.mark.parametrize("signals", [1, 2])
def test_a_graceful_stop_answers_what_runs_and_a_second_signal_ends_all(
    nodes: Callable[[], Node], serve: Callable[..., Server], endpoint: Endpoint, signals: int
) -> None:
    node = nodes()
    # A busy machine may take longer for what follows than the usual half minute.
    node.start("--grace", "600", whole=True)
    serve(node.driver(), TARGET, endpoint)
    client = Client(node.driver(), TARGET, timeout=600)
    held = InBackground(lambda: client.call("hold", value="held"))
    wait_until(lambda: endpoint.asked, LIMIT)
    pids = children(node.pid).values()
    node.send_signal(signal.SIGTERM)
    wait_until(lambda: refused(client), LIMIT)
    if signals == 2:
        assert node.end(signal.SIGTERM) == 1
        assert isinstance(held.join(), LostServerError)
    else:
        assert status(node)[1]["fanout"] is not None
        endpoint.release.set()
        assert held.join() == "held"
        assert node.wait() == 0
    wait_until(lambda: not any(map(is_running, pids)), LIMIT)


@pytest.mark.parametrize("port", [9501, 9502, 9503, 9504])
def test_a_port_that_is_taken_is_one_line(nodes: Callable[[], Node], port: int) -> None:
    node = nodes()
    with socket.create_server((node.address, port)):
        command = [*COMMAND, "--bind", node.address, "--ipc-dir", node.ipc]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 2
    assert f"tcp://{node.address}:{port} cannot be bound (Address already in use)" in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize("whole", [True, False])
def test_systemd_learns_that_every_process_listens(nodes: Callable[[], Node], whole: bool) -> None:
    node = nodes()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"{node.ipc}/notify-me")
        systemd.settimeout(LIMIT)
        node.start(whole=whole, environment={"NOTIFY_SOCKET": f"{node.ipc}/notify-me"})
        assert systemd.recv(100) == b"READY=1"
    assert set(children(node.pid)) == (NAMES if whole else set())
    assert status(node)[0] == (0 if whole else 1)


def test_each_process_may_open_as_many_descriptors_as_the_system_allows(
    nodes: Callable[[], Node],
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    node = nodes()
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    try:
        node.start(whole=True)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    figures = status(node)[1]
    assert figures.keys() == NAMES
    for each in figures.values():
        assert each is not None
        assert each["descriptor_limit"] == hard
        assert 5 < each["descriptors"] < 256
        assert each["socket_limit"] > 1023
