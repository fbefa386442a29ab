"""rabbitmq-amqp-python-client on RabbitMQ 4; the broker closes after 8 to 12 s of silence."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rabbitmq_amqp_python_client import (
    AddressHelper,
    ClassicQueueSpecification,
    Connection,
    Environment,
    Message,
)
from rabbitmq_amqp_python_client.qpid.proton._exceptions import ProtonException

import hbshim
from hbshim.errors import AttachError
from hbshim.heartbeat.state import State
from tests.adapters.amqp1_peer import has_closed
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker


@pytest.fixture
def connect(broker: Broker) -> Iterator[Callable[[], Any]]:
    environment = Environment(
        uri=f"amqp://{broker.user}:{broker.password}@{broker.host}:{broker.amqp_port}/"
    )
    opened: list[Any] = []

    def connect() -> Any:
        connection = environment.connection()
        connection.dial()
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        connection._conn.timeout = 0.5
        with contextlib.suppress(Exception):
            connection.close()


def selectable_of(connection: Any) -> Any:
    return connection._conn.conn.transport._selectable


def test_a_sleeping_client_is_closed_without_hbshim_and_alive_with_it(
    connect: Callable[[], Any],
) -> None:
    control = connect()
    management = hbshim.keep_alive(connect())
    name = f"rabbitmq-client-{secrets.token_hex(6)}"
    management.management().declare_queue(ClassicQueueSpecification(name))
    hbshim.install()
    installed = connect()
    address = AddressHelper.queue_address(name)
    publishers = [each.publisher(address) for each in (control, management, installed)]
    wait_until(lambda: has_closed(selectable_of(control)))
    with pytest.raises(ProtonException):
        publishers[0].publish(Message(body=b"lost"))
    for publisher in publishers[1:]:
        assert publisher.publish(Message(body=b"kept")).remote_state
    links = [selectable_of(each).hbshim_link for each in (management, installed)]
    assert min(link.heartbeats_sent for link in links) >= 4
    assert management.management().purge_queue(name) == 2
    management.management().delete_queue(name)
    installed.close()
    assert links[1].state is State.CLOSED


def test_a_connection_that_was_not_dialled_is_refused() -> None:
    with pytest.raises(AttachError, match="not open"):
        hbshim.keep_alive(Connection("amqp://nowhere"))
