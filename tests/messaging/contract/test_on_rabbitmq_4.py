"""The contract, unchanged, with RabbitMQ's drivers on RabbitMQ 4.

On the other broker of the tests, RabbitMQ 3.10, it runs where it is written.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.messaging.contract.laboratory import Laboratory, opened, parameters
from tests.messaging.contract.test_call import *  # noqa: F403
from tests.messaging.contract.test_cut import *  # noqa: F403
from tests.messaging.contract.test_notify import *  # noqa: F403
from tests.messaging.contract.test_serve import *  # noqa: F403
from tests.messaging.contract.test_store import *  # noqa: F403
from wsgi_harness.stack.broker import Broker


@pytest.fixture(scope="module")
def broker(broker_4: Broker) -> Broker:
    """In place of the one that all the other tests talk to."""
    return broker_4


@pytest.fixture(params=parameters("hbpika", "hbkombu"))
def laboratory(request: pytest.FixtureRequest) -> Iterator[Laboratory]:
    """The drivers that have a RabbitMQ beneath."""
    yield from opened(request)


def test_it_is_rabbitmq_4(broker: Broker) -> None:
    assert broker.management.overview()["rabbitmq_version"].startswith("4.")
