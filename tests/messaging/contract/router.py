"""The laboratory of the driver over AMQP 1.0 on the test router, behind a relay."""

from __future__ import annotations

from typing import Any

import pytest

from hbshim import messaging
from tests.messaging.amqp1.routers import HOST, Router
from tests.messaging.conftest import LIMIT
from wsgi_harness.wire.relay import Relay


class RouterLaboratory:
    """See :class:`tests.messaging.contract.laboratory.Laboratory`."""

    def __init__(self, router: Router, *, restarts: bool) -> None:
        self._router = router
        self._restarts = restarts
        self._relay = Relay(HOST, router.port).__enter__()
        # In the URL, so that they hold in another process, too.
        limits = (
            f"socket_timeout={LIMIT:g}&handshake_timeout={LIMIT:g}&login_method=ANONYMOUS"
            f"&direct_notifications=true&reply_retry={LIMIT:g}"
        )
        self.url = f"hbamqp://{self._relay.host}:{self._relay.port}/?{limits}"
        self.direct_url = f"hbamqp://{HOST}:{router.port}/?{limits}"
        self._drivers: list[messaging.Driver] = []

    def start(self, **options: Any) -> messaging.Driver:
        return self._connect(self.url, options)

    def start_uncut(self, **options: Any) -> messaging.Driver:
        return self._connect(self.direct_url, options)

    def _connect(self, url: str, options: dict[str, Any]) -> messaging.Driver:
        # The capabilities are asked for before the peer is known.
        options = {"addressing_profile": "router", **options}
        self._drivers.append(messaging.connect(url, **options))
        return self._drivers[-1]

    def cut(self) -> None:
        self._relay.reset()

    def disconnect(self) -> None:
        self._relay.stop()

    def reconnect(self) -> None:
        self._relay.accept()

    def restart(self) -> None:
        assert self._restarts, "a test that restarts the router belongs in test_restart.py"
        self._router.process.restart()

    def count(self) -> int:
        return len(self._relay.seen("opened"))

    def close(self) -> None:
        for driver in self._drivers:
            driver.close()
        self._relay.__exit__(None, None, None)


def router_laboratory(
    scheme: str, request: pytest.FixtureRequest, *, restarts: bool
) -> RouterLaboratory:
    """Return a laboratory on the router of the tests, or on one that may be restarted."""
    router: Router = request.getfixturevalue("restartable_router" if restarts else "shared_router")
    return RouterLaboratory(router, restarts=restarts)
