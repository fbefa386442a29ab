"""The broker's image, running: account, heartbeat, TLS, and what must not be in it."""

import socket
import ssl

import kombu
import pika
import pytest

from tests import waiting
from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import Images
from wsgi_harness.errors import NotReadyError
from wsgi_harness.stack.broker import Broker, wait_until


def test_accepts_the_account_and_suggests_the_configured_heartbeat(broker: Broker) -> None:
    with kombu.Connection(broker.amqp_url(), heartbeat=60) as connection:
        connection.connect()
        # RabbitMQ's suggestion is an upper bound for py-amqp: the smaller one wins
        assert connection.connection.heartbeat == 4


def test_refuses_another_password(broker: Broker) -> None:
    url = broker.amqp_url().replace(broker.password, "wrong")
    with pytest.raises(pika.exceptions.ProbableAuthenticationError):
        pika.BlockingConnection(pika.URLParameters(url))


def test_finds_and_closes_a_connection_by_its_client_name(broker: Broker) -> None:
    properties = {"client_properties": {"connection_name": "closed-by-name"}}
    with kombu.Connection(broker.amqp_url(), transport_options=properties) as connection:
        connection.connect()
        found = wait_for_connection(broker, "closed-by-name")
        broker.management.close_connection(str(found["name"]), "a reason of its own")
        with pytest.raises(connection.recoverable_connection_errors):
            connection.drain_events(timeout=10)
    waiting.wait_until(lambda: "a reason of its own" in broker.log())


def test_listens_for_tls_with_a_certificate_that_verifies(broker: Broker) -> None:
    context = ssl.create_default_context(cadata=broker.ca_pem)
    assert broker.tls_port
    with (
        socket.create_connection((broker.host, broker.tls_port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as link,
    ):
        link.sendall(b"AMQP\x00\x00\x09\x01")
        # Connection.Start: a method frame on channel 0
        assert link.recv(3) == b"\x01\x00\x00"


def test_image_holds_no_erlang_cookie(engine: Engine, images: Images) -> None:
    listing = engine.run(
        "run", "--rm", "--entrypoint", "find", images.rabbitmq,
        "/var/lib/rabbitmq", "/root", "-name", ".erlang.cookie",
    )  # fmt: skip
    assert listing == ""


def test_refuses_a_heartbeat_that_is_no_number(engine: Engine, images: Images) -> None:
    argv = ["run", "--rm", "--env", "HBSHIM_HEARTBEAT=soon", images.rabbitmq]
    with pytest.raises(Exception, match="must be whole seconds, not 'soon'"):
        engine.run(*argv)


def wait_for_connection(broker: Broker, name: str) -> dict[str, object]:
    """The broker's view of a connection, which appears up to a second after it opened."""

    def look() -> None:
        if broker.management.connection(name) is None:
            raise NotReadyError(name)

    wait_until(look, limit=20)
    found = broker.management.connection(name)
    assert found is not None
    return found
