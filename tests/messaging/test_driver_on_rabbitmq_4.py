"""What RabbitMQ's drivers do beyond the contract of all drivers, unchanged, on RabbitMQ 4.

On the other broker of the tests, RabbitMQ 3.10, it runs where it is written.
"""

from __future__ import annotations

import pytest

from hbshim.messaging.hosts import Host
from tests.messaging.test_driver import *  # noqa: F403
from tests.messaging.test_driver_hosts import *  # noqa: F403
from tests.messaging.test_driver_notify import *  # noqa: F403
from tests.messaging.test_driver_servers import *  # noqa: F403
from wsgi_harness.stack.broker import Broker


@pytest.fixture(scope="module")
def broker(broker_4: Broker) -> Broker:
    """In place of the one that all the other tests talk to."""
    return broker_4


@pytest.fixture(scope="module")
def host(broker: Broker) -> Host:
    return Host(broker.host, broker.amqp_port, broker.user, broker.password)


def test_it_is_rabbitmq_4(broker: Broker) -> None:
    assert broker.management.overview()["rabbitmq_version"].startswith("4.")
