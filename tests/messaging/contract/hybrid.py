"""The laboratory of several backends: RPC over the test router, notifications over RabbitMQ."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest

from hbshim import messaging
from hbshim.messaging.amqp.options import AmqpOptions
from tests.concurrency import MODEL
from tests.messaging.contract.rabbitmq import RabbitmqLaboratory, rabbitmq_laboratory
from tests.messaging.contract.router import RouterLaboratory, router_laboratory


class HybridLaboratory:
    """See :class:`tests.messaging.contract.laboratory.Laboratory`; it breaks both sides at once."""

    def __init__(self, router: RouterLaboratory, rabbitmq: RabbitmqLaboratory) -> None:
        self._sides = (router, rabbitmq)
        self._drivers: list[messaging.Driver] = []
        self.url = router.url

    def start(self, **options: Any) -> messaging.Driver:
        router, rabbitmq = self._sides
        return self._connect(router.url, rabbitmq.url, options)

    def start_uncut(self, **options: Any) -> messaging.Driver:
        router, rabbitmq = self._sides
        return self._connect(router.direct_url, rabbitmq.direct_url, options)

    def _connect(self, rpc: str, notifications: str, options: dict[str, Any]) -> messaging.Driver:
        # Keywords are options of the first URL alone.
        known = AmqpOptions.__dataclass_fields__
        query = urlencode({key: value for key, value in options.items() if key in known})
        self._drivers.append(
            messaging.connect(
                rpc,
                notifications=f"{notifications}&{query}".rstrip("&"),
                # The capabilities are asked for before the peer is known.
                addressing_profile="router",
                **options,
            )
        )
        return self._drivers[-1]

    def cut(self) -> None:
        for side in self._sides:
            side.cut()

    def disconnect(self) -> None:
        for side in self._sides:
            side.disconnect()

    def reconnect(self) -> None:
        for side in self._sides:
            side.reconnect()

    def restart(self) -> None:
        for side in self._sides:
            side.restart()

    def count(self) -> int:
        return sum(side.count() for side in self._sides)

    def close(self) -> None:
        for driver in self._drivers:
            driver.close()
        for side in self._sides:
            side.close()


def hybrid_laboratory(
    scheme: str, request: pytest.FixtureRequest, *, restarts: bool
) -> HybridLaboratory:
    """Return a laboratory on the router and the broker of the tests."""
    if MODEL != "native":
        # tests/messaging/hybrid/test_models.py shows the same without relays.
        pytest.skip("two relays have two event loops, which need two native threads")
    return HybridLaboratory(
        router_laboratory("hbamqp_router", request, restarts=restarts),
        rabbitmq_laboratory("hbpika", request, restarts=restarts),
    )
