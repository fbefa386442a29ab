"""The contract of a connection, unchanged, on RabbitMQ 4.

On the other broker of the tests, RabbitMQ 3.10, it runs where it is written.
"""

from __future__ import annotations

import pytest

from hbshim.messaging.hosts import Host
from tests.messaging.test_connection import *  # noqa: F403
from wsgi_harness.stack.broker import Broker


@pytest.fixture(scope="module")
def host(broker_4: Broker) -> Host:
    """In place of the one that all the other tests talk to."""
    return Host(broker_4.host, broker_4.amqp_port, broker_4.user, broker_4.password)


def test_it_is_rabbitmq_4(broker_4: Broker) -> None:
    assert broker_4.management.overview()["rabbitmq_version"].startswith("4.")
