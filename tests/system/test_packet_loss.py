"""Lost packets: hbshim keeps connections as the libraries do that are driven on time, or better.

The client is in a network namespace behind another one, a router, which drops what it forwards.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import Images
from wsgi_harness.stack.broker import Broker
from wsgi_harness.stack.stack import Stack, project_name
from wsgi_harness.wire.relay import Relay
from wsgi_harness.wire.relay_cell import Cell

pytestmark = pytest.mark.extended

LIMIT = 60.0
T = 12
#: Of this test process alone, as several may run.
NUMBER = os.getpid() % 250
OURS, ROUTER, INSIDE, CLIENT = (
    f"10.97.{NUMBER}.1",
    f"10.97.{NUMBER}.2",
    f"10.98.{NUMBER}.1",
    f"10.98.{NUMBER}.2",
)

#: Opens two connections of each library: one that hbshim keeps alive while the program does nothing
#: with it, and one whose own heartbeats the program drives.
PROGRAM = """
import json, sys, threading, time
import kombu, pika
import hbshim

host, port, user, password, timeout = sys.argv[1:]

def open_pika():
    login = pika.PlainCredentials(user, password)
    where = pika.ConnectionParameters(host, int(port), credentials=login, heartbeat=int(timeout))
    return pika.BlockingConnection(where)

def open_kombu():
    connection = kombu.Connection(host, user, password, port=int(port), heartbeat=int(timeout))
    connection.connect()
    return connection

def drive(connection):
    if isinstance(connection, pika.BlockingConnection):
        connection.process_data_events(0)
        return
    connection.heartbeat_check()
    try:
        connection.drain_events(timeout=0.01)
    except TimeoutError:
        pass

ways = {"pika": open_pika, "kombu": open_kombu}
kept = {name: hbshim.keep_alive(connect()) for name, connect in ways.items()}
stock = {name: connect() for name, connect in ways.items()}
errors = {}
print("ready", flush=True)
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), ended.set()), daemon=True).start()
while not ended.wait(0.5):
    for name in set(stock) - set(errors):
        try:
            drive(stock[name])
        except Exception as error:
            errors[name] = repr(error)

def works(connection):
    try:
        (connection if isinstance(connection, pika.BlockingConnection) else connection.connection
        ).channel()
    except Exception as error:
        return repr(error)
    return ""

print(json.dumps({
    "kept": {name: works(each) for name, each in kept.items()},
    "stock": {name: errors.get(name) or works(each) for name, each in stock.items()},
    "heartbeats": [link.heartbeats_sent for link in hbshim.status().links],
    "events": [f"{event.kind}: {event.detail}" for event in hbshim.take_events()],
}))
"""


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=LIMIT)


@pytest.fixture
def router() -> Iterator[str]:
    """The namespace that forwards what the client's namespace sends and receives."""
    client, router = f"hbl{NUMBER}-client", f"hbl{NUMBER}-router"
    if shutil.which("ip") is None or shutil.which("iptables") is None:
        pytest.skip("ip or iptables is not installed")
    try:
        _ip("netns", "add", client)
        _ip("netns", "add", router)
        pair = ("type", "veth", "peer", "name")
        _ip("link", "add", f"hbl{NUMBER}", *pair, "up0", "netns", router)
        _ip("-n", router, "link", "add", "down0", *pair, "net0", "netns", client)
        for name, device, address in (
            (None, f"hbl{NUMBER}", OURS),
            (router, "up0", ROUTER),
            (router, "down0", INSIDE),
            (client, "net0", CLIENT),
        ):
            within = [] if name is None else ["-n", name]
            _ip(*within, "address", "add", f"{address}/24", "dev", device)
            _ip(*within, "link", "set", device, "up")
        _ip("-n", client, "link", "set", "lo", "up")  # pika wakes its loop up over it
        _ip("-n", client, "route", "add", "default", "via", INSIDE)
        _ip("route", "add", f"10.98.{NUMBER}.0/24", "via", ROUTER)
        forward = "echo 1 > /proc/sys/net/ipv4/ip_forward && iptables -w -P FORWARD ACCEPT"
        _ip("netns", "exec", router, "sh", "-c", forward)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    else:
        yield router
    finally:
        for name in (client, router):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", f"hbl{NUMBER}"], capture_output=True, check=False)


def _drop(router: str, share: float) -> None:
    """Have the router drop this share of the packets in each direction."""
    rule = f"-m statistic --mode random --probability {share}" if share < 1 else ""
    drop = "iptables -w -F FORWARD" + (f" && iptables -w -A FORWARD {rule} -j DROP" * bool(share))
    _ip("netns", "exec", router, "sh", "-c", drop)


@pytest.fixture(scope="module")
def broker(engine: Engine, images: Images) -> Iterator[Broker]:
    """One that does not ask for less than T: py-amqp takes the lesser of both."""
    with Stack(project_name("loss"), heartbeat=60, prepared=(engine, images)) as stack:
        yield stack.broker


@pytest.mark.parametrize("outage", [3, 8])
def test_an_outage_shorter_than_t_and_then_the_loss_of_each_fifth_packet(
    broker: Broker, router: str, outage: int
) -> None:
    """The first heartbeat is due in the outage. The kernel sends it again later and later."""
    relay = Relay(broker.host, broker.amqp_port)
    relay._cell = Cell((broker.host, broker.amqp_port), relay._heard, listen=(OURS, 0))
    with relay:
        login = (broker.user, broker.password, str(T))
        program = [sys.executable, "-c", PROGRAM, OURS, str(relay.port), *login]
        client = subprocess.Popen(
            ["ip", "netns", "exec", router.replace("router", "client"), *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        with client:
            try:
                assert client.stdout is not None
                assert client.stdout.readline() == "ready\n"
                time.sleep(T / 2 - 1)
                _drop(router, 1)
                time.sleep(outage)
                _drop(router, 0)
                time.sleep(T / 2 + 2)  # until the kernel has sent it again
                _drop(router, 0.2)
                time.sleep(T)
                _drop(router, 0)
                answer, _ = client.communicate("\n", timeout=LIMIT)
            finally:
                client.kill()
    found = json.loads(answer)
    print(found)  # noqa: T201 - what the libraries alone did
    assert found["kept"] == {"pika": "", "kombu": ""}, found
    assert min(found["heartbeats"]) >= 2, found
