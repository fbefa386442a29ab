"""A restart of the broker leaves a pool full of connections that it has closed."""

import contextlib
import os
import time

import pytest

from hbshim import messaging
from hbshim.errors import MessagingError
from tests.waiting import wait_until


def broker_names(broker, ours):
    """What the broker calls the connections whose own name contains `ours`."""
    return [
        each["name"]
        for each in broker.management.connections()
        if ours in each.get("client_properties", {}).get("connection_name", "")
    ]


@pytest.mark.parametrize("scheme", ["hbkombu", "hbpika"])
def test_the_first_cast_after_all_connections_were_closed_is_sent(broker, scheme):
    url = broker.amqp_url().replace("amqp://", f"{scheme}://")
    driver = messaging.connect(url, connection_retry_attempts=1)
    pool = driver._sender.pool
    client = messaging.Client(driver, messaging.Target("nobody"))
    try:
        with contextlib.ExitStack() as lent:
            for _ in range(6):
                lent.enter_context(driver._sender._lent(time.monotonic() + 30))
        assert pool.statistics().idle == 6
        ours = f"{os.getpid()}:hbshim-{scheme[2:]}"
        wait_until(lambda: len(broker_names(broker, ours)) == 6, 30)
        for name in broker_names(broker, ours):
            broker.management.close_connection(name)
        client.cast("anything")
        assert pool.statistics().dead >= 1
    finally:
        with contextlib.suppress(MessagingError):
            driver.close()
