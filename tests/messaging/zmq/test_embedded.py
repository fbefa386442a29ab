"""A proxy that belongs to a process with servers: nothing else is started on one machine."""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from hbshim.errors import CallTimeoutError, OptionError
from hbshim.messaging import Client, Notifier, Server, Target, connect
from tests.messaging.endpoints import Endpoint
from tests.messaging.zmq.curve import Keys
from tests.messaging.zmq.nodes import (
    COMMAND,
    LIMIT,
    InBackground,
    Node,
    children,
    listening_ports,
    run_program,
    server_process,
)
from tests.waiting import wait_until

EMBEDDED: Mapping[str, str] = {"HBSHIM_ZMQ_ZMQ_EMBEDDED_PROXY": "true"}

#: Seconds for which the proxy waits for a connection that was lost, and then starts again.
TAKEN_OVER_WITHIN = 15.0


@pytest.fixture
def node(nodes: Callable[[], Node]) -> Node:
    """A host whose proxy nothing has started."""
    return nodes()


@pytest.fixture
def start(node: Node) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a process with a server and the proxy of its own."""
    with ExitStack() as stack:
        yield lambda topic, **variables: stack.enter_context(
            server_process(node, topic, {**EMBEDDED, **variables})
        )


def proxy_of(pid: int) -> int | None:
    """The process id of the proxy that a process has."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in (thread / "children").read_text().split():
            if b"--embedded-in" in command_of(int(child)):
                return int(child)
    return None


def proxy_and_processes(pid: int) -> list[int]:
    """The process id of the proxy that listens, and those of its processes."""
    found: list[int] = []

    def listens() -> bool:
        proxy = proxy_of(pid)
        if proxy is None:
            return False
        processes = children(proxy).values()
        found[:] = [proxy, *processes]
        return sum((len(listening_ports(each)) for each in processes), 0) == 4

    wait_until(listens, LIMIT)
    return found


def running(pids: list[int]) -> list[int]:
    return [pid for pid in pids if command_of(pid)]


def command_of(pid: int) -> bytes:
    """The command of a process; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def echo(node: Node, topic: str, timeout: float = TAKEN_OVER_WITHIN) -> object:
    return Client(node.driver(), Target(topic), timeout=timeout).call("echo", value=topic)


def test_two_processes_are_enough(node: Node, start: Callable[..., subprocess.Popen[str]]) -> None:
    """Each way of a message works with a server, a client, and nothing beside them."""
    process = start("compute")
    assert process.stdout is not None
    driver = node.driver(zmq_embedded_proxy=True)
    client = Client(driver, Target("compute"), timeout=LIMIT)
    assert client.call("echo", value="called") == "called"
    client.prepare(fanout=True).cast("hold")
    client.cast("hold")
    assert [process.stdout.readline() for _ in range(2)] == 2 * ["holding\n"]
    Notifier(driver, "compute", "publisher").info("event", {})
    assert process.stdout.readline() == "handling\n"
    # A process without a server has none.
    assert proxy_of(os.getpid()) is None
    ends = proxy_and_processes(process.pid)
    process.kill()
    wait_until(lambda: not running(ends), TAKEN_OVER_WITHIN)


def test_the_ports_are_those_of_this_machine_alone(
    node: Node, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start("compute")
    _, *processes = proxy_and_processes(process.pid)
    ports = set().union(*map(listening_ports, processes))
    assert ports == {9501, 9502, 9503, 9504}
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 1).close()
        socket.create_connection((node.address, port), LIMIT).close()


def test_another_process_takes_over_from_one_that_was_killed(
    node: Node, start: Callable[..., subprocess.Popen[str]]
) -> None:
    first = start("first")
    ends = proxy_and_processes(first.pid)
    second = start("second")
    assert echo(node, "first") == "first"
    assert echo(node, "second") == "second"
    assert proxy_of(second.pid) is None
    first.kill()
    assert echo(node, "second") == "second"
    wait_until(lambda: not running(ends), TAKEN_OVER_WITHIN)
    assert echo(node, "second") == "second"
    assert len(proxy_and_processes(second.pid)) == 4


@pytest.mark.extended
def test_a_forked_child_does_not_keep_the_proxy(
    node: Node, start: Callable[..., subprocess.Popen[str]]
) -> None:
    """It holds the pipes of its parent; the proxy ends with the parent all the same."""
    first = start("first")
    ends = proxy_and_processes(first.pid)
    child = Client(node.driver(), Target("first"), timeout=LIMIT).call("fork")
    assert isinstance(child, int)
    try:
        start("second")
        first.kill()
        wait_until(lambda: not running(ends), TAKEN_OVER_WITHIN)
        assert echo(node, "second") == "second"
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_proxy_that_was_killed_is_started_again(
    node: Node, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start("compute")
    ends = proxy_and_processes(process.pid)
    os.kill(ends[0], signal.SIGKILL)
    wait_until(lambda: not running(ends), LIMIT)
    assert echo(node, "compute") == "compute"
    assert process.poll() is None


@pytest.mark.extended
def test_the_command_has_precedence_and_is_replaced(
    node: Node, start: Callable[..., subprocess.Popen[str]]
) -> None:
    node.start(whole=True)
    process = start("compute")
    assert echo(node, "compute") == "compute"
    assert node.end() == 0
    assert echo(node, "compute") == "compute"
    assert len(proxy_and_processes(process.pid)) == 4


@pytest.mark.extended
def test_a_command_finds_the_proxy(node: Node, start: Callable[..., subprocess.Popen[str]]) -> None:
    start("compute")
    command = [*COMMAND, "--bind", node.address, "--ipc-dir", node.ipc]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "another proxy uses rpc_zmq_ipc_dir=" in done.stderr


def test_closing_the_driver_ends_the_proxy_after_what_runs(node: Node) -> None:
    """A call that has begun is answered; then nothing is left, and another driver starts one."""
    endpoint = Endpoint()
    for _ in range(2):
        driver = node.driver(zmq_embedded_proxy=True, zmq_linger=LIMIT)
        server = Server(driver, Target("compute"), [endpoint])
        assert server.start(LIMIT)
        ends = proxy_and_processes(os.getpid())
        client = Client(node.driver(), Target("compute"), timeout=LIMIT)
        endpoint.asked.clear()
        running_call = InBackground(functools.partial(client.call, "hold"))
        wait_until(lambda: endpoint.asked, LIMIT)
        endpoint.release.set()
        assert server.stop(LIMIT)
        driver.close()
        assert not running(ends)
        assert not isinstance(running_call.join(), Exception)


def test_closing_the_driver_while_the_proxy_dies(node: Node) -> None:
    """Nothing reads what it would be asked to stop by."""
    driver = node.driver(zmq_embedded_proxy=True, zmq_linger=LIMIT)
    server = Server(driver, Target("compute"), [Endpoint()])
    assert server.start(LIMIT)
    proxy, *processes = proxy_and_processes(os.getpid())
    server.stop(LIMIT)
    os.kill(proxy, signal.SIGKILL)
    driver.close()
    wait_until(lambda: not running(processes), LIMIT)
    assert proxy_of(os.getpid()) is None


def test_drivers_of_one_process_share_the_proxy(node: Node) -> None:
    drivers = [node.driver(zmq_embedded_proxy=True, zmq_linger=LIMIT) for _ in range(2)]
    servers = [Server(driver, Target(f"{driver!r}"), [Endpoint()]) for driver in drivers]
    for server in servers:
        assert server.start(LIMIT)
    ends = proxy_and_processes(os.getpid())
    for server, driver, left in zip(servers, drivers, (ends, []), strict=True):
        server.stop(LIMIT)
        driver.close()
        assert running(ends) == left


def test_a_port_that_is_taken_is_one_clear_error(node: Node) -> None:
    with socket.create_server((node.address, 9502)):
        driver = node.driver(zmq_embedded_proxy=True)
        server = Server(driver, Target("compute"), [Endpoint()])
        with pytest.raises(OptionError, match=f"the embedded proxy: tcp://{node.address}:9502 can"):
            server.start(LIMIT)

    def starts() -> bool:
        with suppress(OptionError):
            return server.start(LIMIT)
        return False

    # The proxy is started again, and listens once the port is free.
    wait_until(starts, LIMIT)
    server.stop(LIMIT)


def test_curve_with_one_key_for_both_sides(node: Node, keys: Keys) -> None:
    keys.pin(("*", "client"))
    options = {
        "zmq_embedded_proxy": True,
        "zmq_curve_secret_key_file": str(keys.pair("client").path),
        "zmq_curve_server_keys": str(keys.servers),
    }
    with pytest.raises(OptionError, match="needs zmq_curve_allowed_keys"):
        node.driver(**options)
    driver = node.driver(**options, zmq_curve_allowed_keys=str(keys.allowed))
    with Server(driver, Target("compute"), [Endpoint()]):
        client = Client(driver, Target("compute"), timeout=LIMIT)
        assert client.call("echo", value="encrypted") == "encrypted"
        with pytest.raises(CallTimeoutError):
            Client(node.driver(), Target("compute"), timeout=0.5).call("echo", value="plain")


def test_one_process_cannot_have_two_ports(node: Node) -> None:
    first = Server(node.driver(zmq_embedded_proxy=True), Target("compute"), [Endpoint()])
    with pytest.raises(OptionError, match="one rpc_zmq_ipc_dir has one proxy"):
        Server(
            node.driver(zmq_embedded_proxy=True, zmq_cast_port=9604), Target("other"), [Endpoint()]
        )
    first.stop(LIMIT)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param("native", marks=pytest.mark.extended),
        pytest.param("eventlet", marks=pytest.mark.extended),
        "gevent",
    ],
)
def test_in_each_concurrency_model(node: Node, model: str) -> None:
    said = run_program(node, model, "calls,publish", environment=EMBEDDED)
    assert said == [
        "True",
        "waited",
        "ended",
        "['fanout', 'notification', 'notification']",
        "ended",
    ]


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("hbzmq://compute-17/", {}, "the URL names compute-17:9501; write hbzmq://localhost/"),
        ("hbzmq://192.0.2.1/", {}, "the URL names 192.0.2.1:9501"),
        ("hbzmq://localhost,127.0.0.2/", {}, "the URL names localhost:9501, 127.0.0.2:9501"),
        ("hbzmq://", {"fanout_ds_address": "redis://host"}, "is no folder of it"),
        ("hbzmq://", {"fanout_ds_address": "file:///hosts.json"}, "is no folder of it"),
        ("hbzmq://", {"zmq_ipc_group": "0"}, "is for the processes of one user"),
        ("hbzmq://", {"rpc_zmq_bind_address": "127.0.0.2"}, "remove rpc_zmq_bind_address"),
    ],
)
def test_what_cannot_be_embedded(url: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        connect(url, zmq_embedded_proxy=True, **options)
