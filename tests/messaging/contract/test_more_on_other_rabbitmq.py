"""More of the contract with RabbitMQ's drivers on RabbitMQ's other versions."""

from __future__ import annotations

import pytest

from tests.messaging.contract.test_cut import *  # noqa: F403
from tests.messaging.contract.test_notify import *  # noqa: F403
from tests.messaging.contract.test_on_other_rabbitmq import broker, laboratory  # noqa: F401
from tests.messaging.contract.test_serve import *  # noqa: F403

pytestmark = [pytest.mark.usefixtures("other_broker"), pytest.mark.extended]
