"""R11 and R12: virtual hosts, logins and TLS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

from tests.wsgi_harness.router.clients import Client, RefusedError
from tests.wsgi_harness.router.conftest import Starts
from wsgi_harness.router.plan import DIRECTORY, Plan, free_port

Connect = Callable[..., Client]

DENIED = ("amqp:unauthorized-access", "link disallowed by local policy")
CLOSED = ["amqp:resource-limit-exceeded", "connection disallowed by local policy"]
NOVA = {"user": "nova@hbshim", "password": "secret of nova"}
EVE = {"user": "eve@hbshim", "password": "secret of eve"}


class Ports(NamedTuple):
    """A router with virtual hosts; `ca` signs its certificate.

    Attributes:
        plain: without TLS.
        tls: with TLS only.
    """

    plain: int
    tls: int
    ca: str


def vhost(name: str, user: str) -> tuple[str, dict[str, object]]:
    group = {
        "users": user,
        "remoteHosts": "*",
        "sources": f"rpc/{name}/*",
        "targets": f"rpc/{name}/*",
        "allowDynamicSource": True,
        "allowAnonymousSender": True,
    }
    return "vhost", {"hostname": name, "groups": {"services": group}}


@pytest.fixture(scope="module")
def ports(starts: Starts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    ca = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    plain, tls = free_port(), free_port()
    listener = {
        "host": "127.0.0.1",
        "authenticatePeer": True,
        "saslMechanisms": "PLAIN",
    }
    plan = Plan(
        [
            ("router", {"id": "secure", "saslConfigDir": DIRECTORY}),
            ("listener", {**listener, "port": plain}),
            ("listener", {**listener, "port": tls, "sslProfile": "tls", "requireSsl": True}),
            (
                "sslProfile",
                {
                    "name": "tls",
                    "certFile": f"{DIRECTORY}/cert.pem",
                    "privateKeyFile": f"{DIRECTORY}/key.pem",
                },
            ),
            ("policy", {"enableVhostPolicy": True}),
            vhost("alpha", "nova@hbshim"),
            vhost("beta", "eve@hbshim"),
        ],
        users={each["user"]: each["password"] for each in (NOVA, EVE)},
        files={
            "cert.pem": b"".join(each.bytes() for each in certificate.cert_chain_pems),
            "key.pem": certificate.private_key_pem.bytes(),
        },
    )
    router = starts(plan, plain)
    try:
        yield Ports(plain, tls, str(ca))
    finally:
        router.stop()


@pytest.fixture
def nova(connect: Connect, ports: Ports) -> Client:
    """A client of the virtual host `alpha`."""
    return connect(ports.plain, hostname="alpha", **NOVA)


def test_r11_its_own_virtual_host(nova: Client) -> None:
    receiver = nova.receiver("rpc/alpha/topic", 10)
    first = nova.send(nova.sender("rpc/alpha/topic"))
    second = nova.send(nova.sender(), to="rpc/alpha/topic")
    for index, sent in enumerate((first, second)):
        nova.answer(nova.message(receiver, index), "accepted")
        assert nova.outcome(sent) == "accepted"


def test_r11_an_address_that_the_router_has_chosen_must_be_allowed(nova: Client) -> None:
    address = nova.address(nova.receiver(None, 10))
    assert nova.outcome(nova.send(nova.sender(), to=address)) == "rejected"


def test_r11_a_source_or_target_of_another_virtual_host(nova: Client) -> None:
    with pytest.raises(RefusedError) as source:
        nova.receiver("rpc/beta/topic", 10)
    with pytest.raises(RefusedError) as target:
        nova.sender("rpc/beta/topic")
    assert source.value.args == target.value.args == DENIED


def test_r11_the_address_of_another_virtual_host_in_a_message(
    nova: Client, connect: Connect, ports: Ports
) -> None:
    eve = connect(ports.plain, hostname="beta", **EVE)
    receiver = eve.receiver("rpc/beta/secret", 10)
    anonymous = nova.sender()
    for _ in range(3):
        sent = nova.send(anonymous, to="rpc/beta/secret")
        assert nova.outcome(sent) == "rejected"
        assert nova.error(sent) == ["amqp:unauthorized-access", "policy violation on target"]
    assert eve.received(receiver) == []


@pytest.mark.parametrize("hostname", ["beta", "gamma", None])
def test_r11_another_virtual_host_in_open(
    connect: Connect, ports: Ports, hostname: str | None
) -> None:
    assert connect(ports.plain, hostname=hostname, **NOVA).wait_closed() == CLOSED


@pytest.mark.parametrize("user", ["nova", "nova@other", "nobody@hbshim"])
def test_r12_a_user_belongs_to_a_realm(connect: Connect, ports: Ports, user: str) -> None:
    client = connect(ports.plain, hostname="alpha", user=user, password=NOVA["password"])
    client.wait_closed()
    assert not client.opened["open"]


def test_a_wrong_password(connect: Connect, ports: Ports) -> None:
    client = connect(ports.plain, hostname="alpha", user=NOVA["user"], password="wrong")
    client.wait_closed()
    assert not client.opened["open"]


@pytest.mark.parametrize("login", [True, False])
def test_without_a_user(connect: Connect, ports: Ports, login: bool) -> None:
    client = connect(ports.plain, hostname="alpha", login=login)
    client.wait_closed()
    assert not client.opened["open"] or client.opened["error"]


def test_tls(connect: Connect, ports: Ports) -> None:
    client = connect(ports.tls, hostname="alpha", ca=ports.ca, **NOVA)
    receiver = client.receiver("rpc/alpha/tls", 10)
    body = "x" * 200_000
    sent = client.send(client.sender("rpc/alpha/tls"), body)
    message = client.message(receiver)
    assert message["body"] == body
    client.answer(message, "accepted")
    assert client.outcome(sent) == "accepted"


def test_without_tls_where_it_is_required(connect: Connect, ports: Ports) -> None:
    client = connect(ports.tls, hostname="alpha", **NOVA)
    client.wait_closed()
    assert not client.opened["open"]


def test_r12_two_users_of_one_router(connect: Connect, ports: Ports, tmp_path: Path) -> None:
    for user, name in ((NOVA, "alpha"), (EVE, "beta")):
        client = connect(ports.plain, hostname=name, **user)
        assert client.sender(f"rpc/{name}/topic")
