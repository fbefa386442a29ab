"""Keys that change while proxies and clients run."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from hbshim import messaging
from hbshim.errors import CallTimeoutError
from hbshim.messaging import Client, Server, Target
from tests.messaging.endpoints import Endpoint
from tests.messaging.zmq.curve import KINDS, Keys, handshake
from tests.messaging.zmq.nodes import LIMIT, InBackground, Node
from tests.waiting import wait_until

TARGET = Target("compute")

Serve = Callable[..., Server]


def test_a_proxy_that_gets_another_key_is_found_among_several(
    nodes: Callable[[], Node], serve: Serve, keys: Keys, tmp_path: Path
) -> None:
    """ZeroMQ reports it with an address in another form, after the first connection was lost."""
    directory = f"file://{tmp_path}/directory"
    hosts = {}
    for name in ("one", "two"):
        hosts[name] = nodes()
        keys.start(hosts[name], "--host", name, "--directory", directory, pair=name)
        serve(hosts[name].driver(), TARGET.to(server=name), Endpoint(name))
    keys.pin(("one", "one"), ("two", "two"))
    driver = messaging.connect(
        "hbzmq://", fanout_ds_address=directory, **keys.options("client"), zmq_target_update=0.2
    )
    try:
        client = Client(driver, TARGET, timeout=LIMIT)
        assert [client.prepare(server=name).call("who") for name in hosts] == ["one", "two"]
        hosts["two"].end()
        keys.start(hosts["two"], "--host", "two", "--directory", directory, pair="newer")
        wait_until(
            lambda: "another one than zmq_curve_server_keys" in why(client.prepare(server="two")),
            LIMIT,
        )
        assert client.prepare(server="one").call("who") == "one"
        keys.pin(("one", "one"), ("two", "newer"))
        assert client.prepare(server="two").call("who") == "two"
    finally:
        driver.close()


def why(client: Client) -> str:
    """Why a call cannot be made; "" where it can."""
    try:
        client.prepare(timeout=1).call("who")
    except CallTimeoutError as error:
        return str(error)
    return ""


def test_a_client_that_is_allowed_later_needs_no_restart(
    nodes: Callable[[], Node], serve: Serve, endpoint: Endpoint, keys: Keys
) -> None:
    node = nodes()
    keys.pin((node.address, "proxy"))
    keys.allow()
    keys.start(node)
    serve(node.driver(), TARGET, endpoint)
    client = Client(keys.driver(node, "client"), TARGET, timeout=1)
    with pytest.raises(CallTimeoutError, match="does not allow the key of this client"):
        client.call("echo", value=1)
    keys.allow("client")
    node.send_signal(signal.SIGHUP)
    assert client.prepare(timeout=LIMIT).call("echo", value=2) == 2


def test_a_proxy_gets_another_key_while_its_clients_run(
    nodes: Callable[[], Node], serve: Serve, endpoint: Endpoint, keys: Keys
) -> None:
    node = nodes()
    keys.pin((node.address, "old"), (node.address, "new"))
    keys.start(node, pair="old")
    serve(node.driver(), TARGET, endpoint)
    client = Client(keys.driver(node, "client"), TARGET, timeout=LIMIT)
    assert client.call("echo", value=1) == 1
    assert node.end() == 0
    keys.start(node, pair="new")
    assert client.call("echo", value=2) == 2
    keys.pin((node.address, "newest"))
    assert node.end() == 0
    keys.start(node, pair="newest")
    assert client.call("echo", value=3) == 3


def test_a_key_that_is_revoked_is_refused_at_each_port_and_its_connections_end(
    nodes: Callable[[], Node], serve: Serve, endpoint: Endpoint, keys: Keys
) -> None:
    node = nodes()
    keys.pin((node.address, "proxy"))
    keys.allow("client", "other")
    keys.start(node, whole=True)
    serve(node.driver(), TARGET, endpoint)
    proxy, revoked = keys.pair("proxy"), keys.pair("client")
    clients = [
        Client(keys.driver(node, name), TARGET, timeout=LIMIT) for name in ("client", "other")
    ]
    for client in clients:
        assert client.call("echo", value=1) == 1
        client.prepare(fanout=True).cast("echo", value=1)
    assert {handshake(node, port, proxy.public, revoked) for port in KINDS} == {"SUCCEEDED"}
    held = InBackground(lambda: clients[1].call("hold", value="held"))
    wait_until(lambda: "held" in endpoint.asked, LIMIT)
    keys.allow("other")
    for port in KINDS:
        wait_until(
            lambda port=port: handshake(node, port, proxy.public, revoked) == "FAILED_AUTH",  # type: ignore[misc]
            LIMIT,
        )
    wait_until(lambda: "does not allow the key of this client" in why(clients[0]), LIMIT)
    endpoint.release.set()
    assert held.join() == "held"
    assert clients[1].call("echo", value=2) == 2
    clients[1].prepare(fanout=True).cast("echo", value="fanout")
    wait_until(lambda: "fanout" in endpoint.asked, LIMIT)


def test_a_list_that_cannot_be_read_any_more_stays_in_force(
    nodes: Callable[[], Node], keys: Keys
) -> None:
    node, proxy, client = nodes(), keys.pair("proxy"), keys.pair("client")
    with (keys.folder / "log").open("w") as log:
        keys.start(node, log=log)
    keys.allowed.write_text("spoilt\n")
    wait_until(lambda: "zmq-key-file" in (keys.folder / "log").read_text(), LIMIT)
    assert handshake(node, 9501, proxy.public, client) == "SUCCEEDED"
    assert handshake(node, 9501, proxy.public, keys.pair("stranger")) == "FAILED_AUTH"
