"""An event loop that is blocked: aio-pika's connections stay open, and without hbshim they end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

import hbshim
from hbshim.heartbeat import service
from tests.asyncio_clients import (
    KEPT_ALIVE,
    RECOVERABLE,
    T,
    Way,
    block_by_computing,
    block_by_sleeping,
    publish,
)
from tests.concurrency import MODEL
from wsgi_harness.stack.broker import Broker

pytestmark = pytest.mark.skipif(MODEL != "native", reason="asyncio runs on an unpatched library")

#: How often the event loop is blocked, each time for 5 T.
BLOCKS = int(os.environ.get("HBSHIM_ASYNCIO_BLOCKS", "1"))


@pytest.fixture(autouse=True)
def uninstalled() -> Iterator[None]:
    yield
    hbshim.uninstall()


@pytest.fixture(params=KEPT_ALIVE, ids="-".join)
def way(request: pytest.FixtureRequest, broker: Broker) -> Way:
    loop, scheme = request.param
    return Way(loop, scheme, broker)


@pytest.mark.parametrize("block", [block_by_sleeping, block_by_computing])
def test_a_connection_outlives_a_blocked_loop_and_a_stock_one_does_not(
    way: Way, block: Callable[[float], None]
) -> None:
    async def main() -> None:
        async with way.opened() as stock:
            await publish(stock)
            hbshim.install()
            known = service.current().links()
            async with way.opened() as kept:
                (link,) = [each for each in service.current().links() if each not in known]
                for _ in range(BLOCKS):
                    await publish(kept)
                    sent = link.heartbeats_sent
                    block(5 * T)
                    await publish(kept)
                    assert link.heartbeats_sent - sent >= 8
                with pytest.raises(RECOVERABLE):
                    await publish(stock)

    way.run(main())
