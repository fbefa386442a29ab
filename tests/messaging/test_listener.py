"""A listener has all of its queues, or reports why not."""

from __future__ import annotations

from typing import Any

import pytest

from hbshim import messaging
from hbshim.errors import TopologyError
from wsgi_harness.stack.broker import Broker


@pytest.mark.parametrize("scheme", ["hbkombu", "hbpika"])
def test_a_listener_that_failed_half_way_begins_afresh(broker: Broker, scheme: str) -> None:
    url = broker.amqp_url().replace("amqp://", f"{scheme}://")
    driver: Any = messaging.connect(url)
    target = messaging.Target("half", server="one", exchange=f"half-{scheme}")
    # The exchange of the second of its three queues is there already, and of another type.
    listener = driver.listen(target)
    with driver._sender.pool.lease() as other:
        other.connection.declare_exchange(f"half-{scheme}_fanout", "topic")
        try:
            for _ in range(2):
                with pytest.raises(TopologyError, match="half-"):
                    listener.open(20)
        finally:
            listener.close()
            driver.close()
