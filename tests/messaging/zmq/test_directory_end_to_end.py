"""Clients that find their servers by the directory alone, with proxies that register there.

``HBSHIM_ZMQ_OUTAGE_SECONDS=600`` makes Redis unreachable for ten minutes, with leases of 15 s.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hbshim import messaging
from hbshim.errors import CallTimeoutError, ConnectError, MessagingError, OptionError
from hbshim.messaging import Client, Driver, Server, Target
from hbshim.messaging.zmq.options import ZmqOptions
from tests.messaging.endpoints import Endpoint
from tests.messaging.wires import Wires
from tests.messaging.zmq.nodes import LIMIT, Node, own_address
from tests.messaging.zmq.redis_server import RedisServer
from tests.waiting import wait_until

TARGET = Target("compute")
PASSWORD = "only-for-tests"

#: Seconds for which Redis cannot be reached. Ten minutes are 40 leases of 15 s; without the
#: variable a lease has a tenth of a second.
OUTAGE = float(os.environ.get("HBSHIM_ZMQ_OUTAGE_SECONDS", "4"))
LEASE = OUTAGE / 40
PAUSE = LEASE / 100

Serve = Callable[..., Server]


@pytest.fixture(params=["folder", "redis"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty directory."""
    if request.param == "folder":
        return f"file://{tmp_path}/directory"
    server: RedisServer = request.getfixturevalue("redis_server")
    return f"{server.url}/0"


def started(nodes: Callable[[], Node], directory: str, name: str) -> Node:
    node = nodes()
    node.start("--host", name, "--directory", directory)
    return node


def connected(directory: str) -> Driver:
    return messaging.connect(
        "hbzmq://", fanout_ds_address=directory, zmq_target_expire=3, zmq_target_update=0.2
    )


def test_a_call_finds_servers_that_start_and_leaves_those_that_end(
    nodes: Callable[[], Node], serve: Serve, directory: str
) -> None:
    one, two = Endpoint("one"), Endpoint("two")
    first = started(nodes, directory, "one")
    serve(first.driver(), TARGET, one)
    driver = connected(directory)
    try:
        client = Client(driver, TARGET, timeout=LIMIT)
        assert client.call("echo", value=1) == 1
        second = started(nodes, directory, "two")
        server = serve(second.driver(), TARGET, two)
        wait_until(lambda: client.call("echo", value=2) == 2 and two.asked, LIMIT)
        first.end(signal.SIGKILL)
        for value in range(10, 20):
            wait_until(lambda value=value: answered(client, value), LIMIT)  # type: ignore[misc]
        assert set(two.asked) >= set(range(10, 20))
        server.stop(LIMIT)
        wait_until(lambda: unroutable(client), LIMIT)
    finally:
        driver.close()


def answered(client: Client, value: int) -> bool:
    """Whether a call is answered; one that was with the killed proxy is lost, and said so."""
    try:
        return bool(client.call("echo", value=value) == value)
    except MessagingError:
        return False


def unroutable(client: Client) -> bool:
    try:
        client.prepare(timeout=5).call("echo", value="unanswered")
    except MessagingError:
        return True
    return False


def test_a_known_route_outlives_its_directory(
    nodes: Callable[[], Node], serve: Serve, redis_server: RedisServer, endpoint: Endpoint
) -> None:
    directory = f"{redis_server.url}/0"
    node = started(nodes, directory, "one")
    serve(node.driver(), TARGET, endpoint)
    driver = connected(directory)
    try:
        client = Client(driver, TARGET, timeout=LIMIT)
        assert client.call("echo", value=0) == 0
        redis_server.kill()
        for value in range(1, 20):
            assert client.call("echo", value=value) == value
        assert_it_knows_nothing(directory)
        redis_server.start()
        wait_until(lambda: redis_server.command("DBSIZE") > 0, LIMIT)
        fresh = connected(directory)
        try:
            assert Client(fresh, TARGET, timeout=LIMIT).call("echo", value=20) == 20
        finally:
            fresh.close()
    finally:
        driver.close()


@pytest.mark.parametrize("how", ["silent", "refusing"])
def test_no_call_fails_while_redis_cannot_be_reached_for_many_leases(
    nodes: Callable[[], Node],
    serve: Serve,
    redis_server: RedisServer,
    endpoint: Endpoint,
    how: str,
) -> None:
    wait = min(LEASE * 5, 2)
    place = (own_address(), 6379)
    wires = Wires({place: (redis_server.host, redis_server.port)})
    directory = f"redis://{place[0]}:{place[1]}/0"
    driver = None
    try:
        node = nodes()
        environment = {
            "HBSHIM_ZMQ_ZMQ_TARGET_EXPIRE": str(LEASE),
            "HBSHIM_ZMQ_DIRECTORY_TIMEOUT": str(wait),
        }
        node.start("--host", "one", "--directory", directory, environment=environment)
        serve(node.driver(), TARGET, endpoint)
        driver = messaging.connect(
            "hbzmq://",
            fanout_ds_address=directory,
            zmq_target_expire=LEASE,
            zmq_target_update=LEASE / 3,
            directory_timeout=wait,
        )
        client = Client(driver, TARGET, timeout=LIMIT)
        assert client.call("echo", value=-1) == -1
        if how == "silent":
            wires.swallow()  # it takes all that comes, and answers nothing
        else:
            wires.stop()
        until, value = time.monotonic() + OUTAGE, 0
        while time.monotonic() < until:
            assert client.prepare(mandatory=True).call("echo", value=value) == value
            value += 1
            time.sleep(PAUSE)
        assert host_keys(redis_server) == []
        if how == "silent":
            wires.cut()
        else:
            wires.accept()
        wait_until(lambda: host_keys(redis_server), LIMIT)
        assert client.call("echo", value=value) == value
    finally:
        if driver is not None:
            driver.close()
        wires.close()


def assert_it_knows_nothing(directory: str) -> None:
    """A driver that starts without its directory says what is missing."""
    driver = connected(directory)
    try:
        client = Client(driver, TARGET, timeout=0.5)
        with pytest.raises(CallTimeoutError, match="the directory cannot be reached"):
            client.call("echo", value=0)
        with pytest.raises(ConnectError, match="the directory cannot be reached"):
            client.cast("echo", value=0)
    finally:
        driver.close()


def test_a_proxy_that_stops_leaves_nothing_in_the_directory(
    nodes: Callable[[], Node], serve: Serve, redis_server: RedisServer, endpoint: Endpoint
) -> None:
    node = started(nodes, f"{redis_server.url}/0", "one")
    serve(node.driver(), TARGET, endpoint)
    wait_until(lambda: host_keys(redis_server), LIMIT)
    assert node.end() == 0
    assert not host_keys(redis_server)


def host_keys(server: RedisServer) -> list[bytes]:
    """Keys that hold the record of a host."""
    found: list[bytes] = server.command("KEYS", "hbzmq:{default}:h:*")
    return found


def test_what_cannot_be_used_is_refused_without_the_password() -> None:
    with pytest.raises(OptionError, match="either from the URL or from the directory"):
        messaging.connect("hbzmq://host/", fanout_ds_address="file:///run/x")
    with pytest.raises(OptionError, match="memory://"):
        messaging.connect("hbzmq://", fanout_ds_address="memory://")
    for wrong in (f"redis://:{PASSWORD}@h:1:2/0", f"http://:{PASSWORD}@host/"):
        with pytest.raises(OptionError, match="cannot be taken apart") as caught:
            messaging.connect("hbzmq://", fanout_ds_address=wrong)
        assert PASSWORD not in str(caught.value)
    options = ZmqOptions.load(fanout_ds_address=f"redis://:{PASSWORD}@host/0", environ={})
    assert PASSWORD not in repr(options)
