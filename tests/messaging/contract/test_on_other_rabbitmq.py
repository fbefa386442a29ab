"""The contract, unchanged, with RabbitMQ's drivers on RabbitMQ's other versions.

On the version that the other tests use it runs where it is written.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.messaging.contract.laboratory import (
    Laboratory,
    extended,
    opened,
    parameters,
)
from tests.messaging.contract.test_call import *  # noqa: F403
from tests.messaging.contract.test_store import *  # noqa: F403
from wsgi_harness.stack.broker import Broker

# The laboratories look the broker up by name; this has each test run on each version.
pytestmark = pytest.mark.usefixtures("other_broker")


@pytest.fixture(scope="module")
def broker(other_broker: Broker) -> Broker:
    """In place of the one that all the other tests talk to."""
    return other_broker


@pytest.fixture(params=[*parameters("hbpika"), *extended("hbkombu", "hbamqp")])
def laboratory(request: pytest.FixtureRequest, broker: Broker) -> Iterator[Laboratory]:
    """The drivers that have a RabbitMQ beneath."""
    version = broker.management.overview()["rabbitmq_version"]
    if request.param == "hbamqp" and int(version.partition(".")[0]) < 4:
        pytest.skip("RabbitMQ speaks AMQP 1.0 natively since 4.0")
    yield from opened(request)
