"""Where a socket is connected to: the forms of an address, and hosts that have names."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hbshim import messaging
from hbshim.errors import CallTimeoutError, LostServerError
from hbshim.messaging import Client, Server, Target
from hbshim.messaging.zmq import names
from hbshim.messaging.zmq.names import Names, addresses_of
from hbshim.messaging.zmq.places import address_at, name_in, place_of
from tests.messaging.endpoints import Endpoint
from tests.messaging.zmq.machines import refusal
from tests.messaging.zmq.nodes import LIMIT, Node
from tests.messaging.zmq.stage import Stage
from tests.waiting import wait_until

TARGET = Target("compute")

Serve = Callable[..., Server]

#: Calls by one driver while the host of another one is looked up, by ZeroMQ or hbshim, without an
#: answer.
SLOW_NAME = """
import contextlib, os, socket, sys, threading
from hbshim import messaging
from hbshim.errors import LostServerError
from hbshim.messaging.zmq import connector

url, who = sys.argv[1:]
if who == "ZeroMQ":
    connector.name_in = lambda address: None
silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
silent.bind(("127.0.0.1", 53))
silent.settimeout(30)

def client(url):
    return messaging.Client(messaging.connect(url), messaging.Target("compute"), timeout=30)

good, bad = client(url), client("hbzmq://slow.test/")
good.call("length", value="before")
threading.Thread(target=lambda: bad.call("length", value=""), daemon=True).start()
question = silent.recv(512)
again = 0
try:
    for _ in range(10):
        good.call("length", value="meanwhile")
except LostServerError:
    again = 1  # no heartbeat was sent meanwhile
silent.setblocking(False)
with contextlib.suppress(BlockingIOError):
    while True:
        again += silent.recv(512) == question
print("late" if again else "in time", flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("tcp://127.0.0.1:9501", "tcp://[::ffff:127.0.0.1]:9501"),
        ("tcp://[::1]:9501", "tcp://[0:0:0:0:0:0:0:1]:9501"),
        ("tcp://[fe80::1%lo]:9501", "tcp://[fe80::1]:9501"),
    ],
)
def test_two_forms_of_one_place(one: str, other: str) -> None:
    assert place_of(one) == place_of(other) is not None
    assert name_in(one) is name_in(other) is None


@pytest.mark.parametrize(
    "address", ["tcp://host:9501", "ipc:///tmp/socket", "tcp://1.2.3:9501", ""]
)
def test_what_is_not_in_numbers(address: str) -> None:
    assert place_of(address) is None


def test_names_and_what_they_stand_for() -> None:
    assert name_in("tcp://host.test:9501") == ("host.test", "9501")
    assert name_in("ipc:///tmp/socket") is None
    assert address_at("192.0.2.1", "9501") == "tcp://192.0.2.1:9501"
    assert address_at("2001:db8::1", "9501") == "tcp://[2001:db8::1]:9501"
    assert "127.0.0.1" in addresses_of("localhost")
    assert addresses_of("name.invalid") == addresses_of("x" * 100) == []


def test_a_name_is_looked_up_once_for_all_and_few_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[Callable[[], None]] = []
    posted: list[Callable[[], None]] = []
    monkeypatch.setattr(names, "MOST", 2)
    monkeypatch.setattr(names, "addresses_of", lambda host: [f"of {host}"])
    monkeypatch.setattr(names, "start_native_thread", lambda run, _: begun.append(run))
    found: list[tuple[str, list[str]]] = []
    made = Names(posted.append)
    for host in ("a", "b", "a", "c"):
        made.look_up(host, lambda numbers, host=host: found.append((host, numbers)))  # type: ignore[misc]
    assert len(begun) == 2
    while begun:
        begun.pop(0)()
        posted.pop(0)()
    assert found == [(host, [f"of {host}"]) for host in ("a", "a", "b", "c")]


@pytest.mark.parametrize("who", ["hbshim", pytest.param("ZeroMQ", marks=pytest.mark.extended)])
def test_a_name_server_that_does_not_answer_delays_no_other_host(
    stage: Stage, serve: Serve, tmp_path: Path, who: str
) -> None:
    """The control leaves lookups to ZeroMQ, whose one thread waits for the name server."""
    if refusal() is not None:
        pytest.skip(f"no network namespaces here: {refusal()}")
    (machine,) = stage.machines(1)
    configuration = tmp_path / "resolv.conf"
    configuration.write_text("nameserver 127.0.0.1\noptions timeout:5 attempts:2\n")
    node = machine.node()
    try:
        node.start()
        serve(node.driver(), TARGET, Endpoint())
        program = [sys.executable, "-c", SLOW_NAME, node.url, who]
        own_resolver = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        done = subprocess.run(
            [*machine.within, "sh", "-c", own_resolver, str(configuration), *program],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.stdout == ("late\n" if who == "ZeroMQ" else "in time\n"), done.stderr
    finally:
        node.close()


def is_unreachable(client: Client) -> bool:
    """Whether a call is not handed over; before the loss is known, one is reported as lost."""
    try:
        client.call("who")
    except LostServerError:
        return False
    except CallTimeoutError as error:
        return "its host cannot be reached" in str(error)
    raise AssertionError("it was answered")


def test_a_host_that_has_moved_is_looked_up_again(
    nodes: Callable[[], Node], serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = nodes(), nodes()
    known = {"host.test": [one.address]}
    monkeypatch.setattr(names, "addresses_of", lambda host: known.get(host, []))
    for node in (one, two):
        node.start()
        serve(node.driver(), TARGET, Endpoint(node.address))
    driver = messaging.connect("hbzmq://host.test/")
    try:
        client = Client(driver, TARGET, timeout=LIMIT)
        assert client.call("who") == one.address
        # The name server does not answer for a while, and names two addresses later.
        known["host.test"] = []
        one.end(signal.SIGKILL)
        wait_until(lambda: is_unreachable(client.prepare(timeout=1.5)), LIMIT)
        known["host.test"] = [one.address, two.address]
        assert client.call("who") == two.address
    finally:
        driver.close()


def test_a_name_that_is_unknown_is_named_in_the_error_and_tried_again(
    node: Node, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: dict[str, list[str]] = {}
    monkeypatch.setattr(names, "addresses_of", lambda host: known.get(host, []))
    serve(node.driver(), TARGET, Endpoint("known"))
    driver = messaging.connect("hbzmq://host.test/")
    try:
        client = Client(driver, TARGET, timeout=LIMIT)
        with pytest.raises(CallTimeoutError, match="the name of its host has no address"):
            client.prepare(timeout=0.5).call("who")
        known["host.test"] = [node.address]
        assert client.call("who") == "known"
    finally:
        driver.close()
