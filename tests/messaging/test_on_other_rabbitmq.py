"""The contract of a connection, unchanged, on RabbitMQ's other versions.

On the version that the other tests use it runs where it is written.
"""

from __future__ import annotations

import pytest

from hbshim.messaging.hosts import Host
from tests.messaging.test_connection import *  # noqa: F403
from wsgi_harness.stack.broker import Broker


@pytest.fixture(scope="module")
def host(other_broker: Broker) -> Host:
    """In place of the one that all the other tests talk to."""
    broker = other_broker
    return Host(broker.host, broker.amqp_port, broker.user, broker.password)
