"""What RabbitMQ's drivers do beyond the contract of all drivers, on RabbitMQ's other versions.

On the version that the other tests use it runs where it is written.
"""

from __future__ import annotations

import pytest

from hbshim.messaging.hosts import Host
from tests.messaging.test_driver import *  # noqa: F403
from tests.messaging.test_driver_hosts import *  # noqa: F403
from tests.messaging.test_driver_notify import *  # noqa: F403
from tests.messaging.test_driver_servers import *  # noqa: F403
from wsgi_harness.stack.broker import Broker

pytestmark = pytest.mark.extended


@pytest.fixture(scope="module")
def broker(other_broker: Broker) -> Broker:
    """In place of the one that all the other tests talk to."""
    return other_broker


@pytest.fixture(scope="module")
def host(broker: Broker) -> Host:
    return Host(broker.host, broker.amqp_port, broker.user, broker.password)
