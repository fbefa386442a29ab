"""CURVE: what passes with the right keys, and what is refused without, on each port."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from hbshim import messaging
from hbshim.errors import CallTimeoutError, ConnectError, OptionError
from hbshim.heartbeat import service
from hbshim.messaging import Client, NotificationServer, Notifier, Server, Target
from hbshim.messaging.zmq.options import ZmqOptions
from hbshim.messaging.zmq.proxy.control import ask
from hbshim.messaging.zmq.settings import SocketSettings
from hbshim.messaging.zmq.sockets import make
from hbshim.metrics import Metrics
from tests.messaging.endpoints import Endpoint
from tests.messaging.zmq.curve import KINDS, Keys, handshake
from tests.messaging.zmq.nodes import COMMAND, LIMIT, InBackground, Node, run_program
from tests.messaging.zmq.relay import Relay
from tests.waiting import wait_until

TARGET = Target("compute")

Serve = Callable[..., Server]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Keys]]:
    """A host with the whole proxy, which allows one client."""
    node, made = Node(), Keys(tmp_path_factory.mktemp("keys"))
    made.allow("client")
    made.pin((node.address, "proxy"))
    with (made.folder / "log").open("w") as log:
        made.start(node, whole=True, log=log)
    yield node, made
    node.close()


@pytest.mark.parametrize("port", KINDS)
def test_each_port_lets_in_the_right_key_alone(whole: tuple[Node, Keys], port: int) -> None:
    node, keys = whole
    proxy, client = keys.pair("proxy"), keys.pair("client")
    assert handshake(node, port, proxy.public, client) == "SUCCEEDED"
    # Which side notices first that only one of them has CURVE on is a matter of chance.
    assert handshake(node, port) in ("FAILED_PROTOCOL", "FAILED_NO_DETAIL")
    assert handshake(node, port, keys.pair("other").public, client) == "FAILED_NO_DETAIL"
    assert handshake(node, port, proxy.public, keys.pair("stranger")) == "FAILED_AUTH"
    # The control: the port still answers.
    assert handshake(node, port, proxy.public, client) == "SUCCEEDED"


def test_every_kind_of_message_passes(
    whole: tuple[Node, Keys], serve: Serve, endpoint: Endpoint
) -> None:
    node, keys = whole
    driver = keys.driver(node, "client")
    got: list[object] = []

    class Sink:
        def info(self, notification: messaging.Notification) -> None:
            got.append(notification.payload)

    serve(driver, TARGET, endpoint)
    client = Client(driver, TARGET, timeout=LIMIT)
    assert client.call("echo", value="x" * 600_000) == "x" * 600_000
    client.cast("echo", value="cast")
    client.prepare(fanout=True).cast("echo", value="fanout")
    with NotificationServer(driver, ["events"], [Sink()]):
        Notifier(driver, "events", "test").info("happened", "notification")
        wait_until(lambda: got == ["notification"], LIMIT)
    wait_until(lambda: set(endpoint.asked) >= {"cast", "fanout"}, LIMIT)


@pytest.mark.parametrize("pinned", [True, False])
def test_one_client_reaches_two_hosts_with_different_keys(
    nodes: Callable[[], Node], serve: Serve, keys: Keys, tmp_path: Path, pinned: bool
) -> None:
    """All of its calls go over one socket, whose server key is another one for each connection."""
    directory = f"file://{tmp_path}/directory"
    endpoints = {}
    for name in ("one", "two"):
        node, endpoints[name] = nodes(), Endpoint(name)
        keys.start(node, "--host", name, "--directory", directory, pair=f"proxy of {name}")
        driver = node.driver()
        serve(driver, TARGET.to(server=name), endpoints[name])
    keys.pin(("one", "proxy of one"), ("*", "proxy of two"))
    options = keys.options("client")
    if not pinned:
        del options["zmq_curve_server_keys"]
    driver = messaging.connect("hbzmq://", fanout_ds_address=directory, **options)
    try:
        client = Client(driver, TARGET, timeout=LIMIT)
        for name in endpoints:
            assert client.prepare(server=name).call("who") == name
            client.prepare(server=name).cast("echo", value="cast")
        for each in endpoints.values():
            wait_until(lambda each=each: "cast" in each.asked, LIMIT)  # type: ignore[misc]
    finally:
        driver.close()


@pytest.fixture
def plain(nodes: Callable[[], Node]) -> Node:
    """A host whose proxy has CURVE off."""
    made = nodes()
    made.start()
    return made


def refused(driver: messaging.Driver, reason: str) -> None:
    """Check that calls, casts and fanouts of a client end within their time, with a reason."""
    # Long enough for the refusal to arrive, on a busy machine too.
    client = Client(driver, TARGET, timeout=3)
    outcomes = [
        InBackground(lambda: client.call("echo", value=1)),
        InBackground(lambda: client.prepare(fanout=True).cast("echo", value=1)),
        InBackground(lambda: client.cast("echo", value=1)),
    ]
    errors = [each.join() for each in outcomes]
    assert list(map(type, errors)) == [CallTimeoutError, ConnectError, ConnectError]
    assert all(reason in str(error) for error in errors), errors


def test_a_client_is_told_why_it_is_refused(whole: tuple[Node, Keys], plain: Node) -> None:
    node, keys = whole
    refused(keys.driver(node, "stranger"), "does not allow the key of this client")
    refused(node.driver(), "asks for CURVE")
    try:
        keys.pin((node.address, "another"))
        refused(keys.driver(node, "client"), "another one than zmq_curve_server_keys")
        keys.pin(("elsewhere", "another"))
        refused(keys.driver(node, "client"), "public key of its proxy is not known")
        keys.pin(("*", "another"))
        refused(keys.driver(plain, "client"), "CURVE is off there")
    finally:
        keys.pin((node.address, "proxy"))


def test_what_is_refused_is_counted_and_reported(whole: tuple[Node, Keys]) -> None:
    node, keys = whole
    proxy, stranger = keys.pair("proxy"), keys.pair("stranger")
    for port in KINDS:
        handshake(node, port, proxy.public, stranger)
        handshake(node, port, keys.pair("other").public, stranger)
    command = [*COMMAND, "--ipc-dir", node.ipc, "--status", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
    for figures in json.loads(done.stdout).values():
        assert figures["handshakes_not_allowed"] >= 1
        assert figures["handshakes_failed"] >= 1
        assert figures["keys_allowed"] == 1
    log = keys.folder / "log"
    wait_until(lambda: log.read_text().count("zmq-clients-refused") >= 3, LIMIT)
    assert f"the latest: {stranger.public.decode()} from 127.0.0.1)" in log.read_text()
    for secret in (proxy.secret, keys.pair("client").secret):
        assert secret.decode() not in log.read_text() + done.stdout


@pytest.mark.parametrize("encrypted", [True, False])
def test_the_wire_shows_nothing_of_a_message(
    whole: tuple[Node, Keys], plain: Node, serve: Serve, endpoint: Endpoint, encrypted: bool
) -> None:
    node, keys = (whole[0], whole[1]) if encrypted else (plain, whole[1])
    serve(node.driver(), Target("confidential topic"), endpoint)
    with Relay(node.address, 9501) as relay:
        options = keys.options("client") if encrypted else {}
        driver = messaging.connect(f"hbzmq://{relay.address}/", **options)
        try:
            client = Client(driver, Target("confidential topic"), timeout=LIMIT)
            assert client.call("echo", value="confidential text") == "confidential text"
        finally:
            driver.close()
    for word in (b"confidential topic", b"confidential text"):
        assert (word in relay.seen) is not encrypted


def test_no_secret_is_shown(keys: Keys) -> None:
    pair = keys.pair("client")
    keys.pin(("*", "proxy"))
    options = ZmqOptions.load(config=keys.options("client"), environ={})
    settings = SocketSettings(secret_key=options.secret_key())
    assert settings.secret_key == pair.secret
    driver = messaging.connect("hbzmq://host/", **keys.options("client"))
    shown = repr(options) + repr(settings) + repr(driver) + repr(vars(driver))
    driver.close()
    assert pair.secret.decode() not in shown


def test_a_port_whose_list_of_keys_is_missing_lets_no_client_in(
    nodes: Callable[[], Node], keys: Keys
) -> None:
    node, proxy = nodes(), keys.pair("proxy")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = make(context, "proxy-call", SocketSettings(secret_key=proxy.secret))
    socket.bind(f"tcp://{node.address}:9501")
    assert handshake(node, 9501, proxy.public, keys.pair("client")).startswith("FAILED")
    # The control: ZeroMQ itself lets in every key pair.
    open_to_all = context.socket(zmq.PULL)
    open_to_all.set(zmq.CURVE_SERVER, 1)
    open_to_all.set(zmq.CURVE_SECRETKEY, proxy.secret)
    open_to_all.bind(f"tcp://{node.address}:9504")
    assert handshake(node, 9504, proxy.public, keys.pair("client")) == "SUCCEEDED"
    context.destroy(linger=0)


def test_any_key_pair_may_be_allowed(nodes: Callable[[], Node], keys: Keys) -> None:
    node, proxy = nodes(), keys.pair("proxy")
    with (keys.folder / "log").open("w") as log:
        node.start("--secret-key-file", str(proxy.path), "--allowed-keys", "*", log=log)
    assert "zmq_curve_allowed_keys=*: every client" in (keys.folder / "log").read_text()
    assert handshake(node, 9501, proxy.public, keys.pair("stranger")) == "SUCCEEDED"
    assert handshake(node, 9501).startswith("FAILED")
    assert "keys_allowed" not in figures(node)


def figures(node: Node) -> dict[str, float]:
    found = ask(node.ipc, ("requests",))["requests"]
    assert found is not None
    return dict(found)


def test_a_proxy_warns_of_a_directory_that_anyone_can_write(
    nodes: Callable[[], Node], keys: Keys
) -> None:
    with (keys.folder / "log").open("w") as log:
        keys.start(nodes(), "--directory", "redis://:only-for-tests@127.0.0.1:1/0", log=log)
    said = (keys.folder / "log").read_text()
    assert "redis://127.0.0.1:1/0 has the public key of this proxy, and it has no TLS" in said
    assert "only-for-tests" not in said


def test_a_proxy_refuses_keys_that_it_cannot_use(keys: Keys) -> None:
    proxy = keys.pair("proxy")
    secret = ("--secret-key-file", str(proxy.path))
    for arguments, reason in (
        (secret, "nothing names the clients that may connect"),
        (("--allowed-keys", "*"), "zmq_curve_allowed_keys has no effect without CURVE"),
        ((*secret, "--allowed-keys", "/missing"), "zmq_curve_allowed_keys: /missing: No such file"),
        (("--secret-key-file", str(keys.allowed), "--allowed-keys", "*"), "make it 0600"),
    ):
        ipc = ("--ipc-dir", str(keys.folder / "ipc"))
        done = subprocess.run(
            [*COMMAND, *ipc, *arguments], capture_output=True, text=True, timeout=LIMIT, check=False
        )
        assert done.returncode == 2, done
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1
        assert proxy.secret.decode() not in done.stderr


def test_a_driver_refuses_keys_that_it_cannot_use(keys: Keys) -> None:
    options = keys.options("client")
    del options["zmq_curve_server_keys"]
    with pytest.raises(OptionError, match="nothing has the public keys of the proxies"):
        messaging.connect("hbzmq://host/", **options)
    keys.pair("client").path.chmod(0o644)
    keys.pin()
    with pytest.raises(OptionError, match="make it 0600"):
        messaging.connect("hbzmq://host/", **keys.options("client"))


@pytest.mark.parametrize(
    ("url", "weakness"),
    [
        ("redis://127.0.0.1:1/0", "it has no password and no TLS"),
        ("redis://:only-for-tests@127.0.0.1:1/0", "it has no TLS"),
        ("rediss://127.0.0.1:1/0", "it has no password"),
        ("rediss://:only-for-tests@127.0.0.1:1/0", ""),
        ("file:///missing", None),
    ],
)
def test_keys_from_a_directory_that_anyone_can_write_are_a_warning(
    keys: Keys, url: str, weakness: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = Metrics()
    monkeypatch.setattr(service.current(), "metrics", metrics)
    options = keys.options("client")
    del options["zmq_curve_server_keys"]
    messaging.connect("hbzmq://", fanout_ds_address=url, **options).close()
    told = [event.detail for event in metrics.recorded() if event.kind == "zmq-keys-not-pinned"]
    assert len(told) == (weakness is not None)
    assert all(str(weakness) in each for each in told)
    keys.pin()
    messaging.connect("hbzmq://", fanout_ds_address=url, **keys.options("client")).close()
    assert len([each for each in metrics.recorded() if each.kind == "zmq-keys-not-pinned"]) == len(
        told
    )


def test_a_connection_that_says_nothing_is_closed(whole: tuple[Node, Keys]) -> None:
    """Within 5 s: it holds a descriptor."""
    with socket.create_connection((whole[0].address, 9501), LIMIT) as silent:
        while silent.recv(1000):
            pass


@pytest.mark.parametrize("model", ["native", "eventlet", "gevent"])
def test_programs_of_each_concurrency_model(
    whole: tuple[Node, Keys], monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    node, keys = whole
    for name, value in keys.options("client").items():
        monkeypatch.setenv(f"HBSHIM_ZMQ_{name.upper()}", value)
    published = str(["fanout", "notification", "notification"])
    expected = ["True", "waited", "ended", published, "ended"]
    assert run_program(node, model, "calls,publish") == expected
