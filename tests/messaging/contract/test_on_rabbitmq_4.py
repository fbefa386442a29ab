"""The contract, unchanged, on RabbitMQ 4.

On the other broker of the tests, RabbitMQ 3.10, it runs where it is written.
"""

from __future__ import annotations

import pytest

from tests.messaging.contract.test_call import *  # noqa: F403
from tests.messaging.contract.test_cut import *  # noqa: F403
from wsgi_harness.stack.broker import Broker


@pytest.fixture(scope="module")
def broker(broker_4: Broker) -> Broker:
    """In place of the one that all the other tests talk to."""
    return broker_4


def test_it_is_rabbitmq_4(broker: Broker) -> None:
    assert broker.management.overview()["rabbitmq_version"].startswith("4.")
