"""A large call whose bytes stop in the middle of a frame ends in time, and harms no later one."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from hbshim.errors import MessagingError
from hbshim.messaging import Client, Server, Target
from hbshim.messaging.amqp.driver import AmqpDriver
from hbshim.messaging.hosts import Host
from tests.messaging.conftest import LIMIT
from tests.messaging.endpoints import Endpoint
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay

Serve = Callable[..., Server]
MIB = 1024 * 1024
#: RabbitMQ 4 refuses more than 16 MiB.
SIZE = 15 * MIB
#: Seconds that the call may take; the relay takes 7 for all of it.
TIMEOUT = 3.0


@pytest.mark.parametrize("fault", ["deaf", "reset"])
def test_a_large_call_that_is_cut_in_the_middle_of_a_frame(
    fault: str,
    broker: Broker,
    host: Host,
    drivers: Callable[..., AmqpDriver],
    serve: Serve,
    target: Target,
) -> None:
    options: dict[str, Any] = {"payload_limit": 64 * MIB, "heartbeat_interval": 20}
    serve(drivers(**options), target.to(server="one"), Endpoint())
    with Relay(broker.host, broker.amqp_port) as relay:
        way = Host("127.0.0.1", relay.port, host.username, host.password)
        driver = drivers(way, **options)
        client = Client(driver, target, timeout=LIMIT)
        assert client.call("echo", value="small") == "small"
        value = "x" * SIZE
        # No message ends before the fault: what the kernels buffer is less.
        relay.deaf() if fault == "deaf" else relay.slow(2 * MIB)
        began = time.monotonic()
        cut = None
        if fault == "reset":
            cut = threading.Timer(TIMEOUT / 2, relay.reset)
            cut.start()
        with pytest.raises(MessagingError) as error:
            client.prepare(timeout=TIMEOUT).call("length", value=value)
        assert time.monotonic() - began < LIMIT
        assert str(error.value)
        if cut is not None:
            cut.join()
        relay.slow(None)
        relay.resume()

        def served() -> bool:
            with contextlib.suppress(MessagingError):
                return bool(client.prepare(timeout=LIMIT).call("length", value=value) == SIZE)
            return False

        wait_until(served, 2 * LIMIT)
        driver.close()
