"""The laboratory of the AMQP 0-9-1 drivers: RabbitMQ behind a relay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hbshim import messaging
from tests.messaging.conftest import LIMIT
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay


class RabbitmqLaboratory:
    """See :class:`tests.messaging.contract.laboratory.Laboratory`.

    Parameters:
        scheme: of the driver.
        restart: restarts the broker.
    """

    def __init__(self, scheme: str, broker: Broker, restart: Callable[[], None]) -> None:
        self._relay = Relay(broker.host, broker.amqp_port).__enter__()
        self._restart = restart
        login = f"{scheme}://{broker.user}:{broker.password}"
        # In the URL, so that they hold in another process, too.
        limits = f"socket_timeout={LIMIT:g}&handshake_timeout={LIMIT:g}&rpc_queue_expiration=30"
        self.url = f"{login}@{self._relay.host}:{self._relay.port}/?{limits}"
        self.direct_url = f"{login}@{broker.host}:{broker.amqp_port}/?{limits}"
        self._drivers: list[messaging.Driver] = []

    def start(self, **options: Any) -> messaging.Driver:
        return self._connect(self.url, options)

    def start_uncut(self, **options: Any) -> messaging.Driver:
        return self._connect(self.direct_url, options)

    def _connect(self, url: str, options: dict[str, Any]) -> messaging.Driver:
        self._drivers.append(messaging.connect(url, **options))
        return self._drivers[-1]

    def cut(self) -> None:
        self._relay.reset()

    def disconnect(self) -> None:
        self._relay.stop()

    def reconnect(self) -> None:
        self._relay.accept()

    def restart(self) -> None:
        self._restart()

    def count(self) -> int:
        return len(self._relay.seen("opened"))

    def close(self) -> None:
        for driver in self._drivers:
            driver.close()
        self._relay.__exit__(None, None, None)


def rabbitmq_laboratory(
    scheme: str, request: pytest.FixtureRequest, *, restarts: bool
) -> RabbitmqLaboratory:
    """Return a laboratory on the broker of the tests, or on one that may be restarted."""
    broker: Broker
    restart: Callable[[], None]
    if restarts:
        broker, restart = request.getfixturevalue("restartable")
    else:
        broker, restart = request.getfixturevalue("broker"), _refuse
    return RabbitmqLaboratory(scheme, broker, restart)


def _refuse() -> None:
    raise AssertionError("a test that restarts the broker belongs in test_restart.py")
