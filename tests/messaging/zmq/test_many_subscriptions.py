"""Subscriptions of many topics, through restarts of the proxy: none may be lost.

The control is in test_traps.py: ZeroMQ's usual limit drops those beyond it without a word.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

from hbshim import messaging
from hbshim.heartbeat import service
from hbshim.messaging import Notification, NotificationServer, Notifier
from tests.messaging.zmq.nodes import LIMIT, Node, figure
from tests.waiting import wait_until, wait_while_progressing

#: Beyond the limit of 1000 in both.
TOPICS, RESTARTS = (5000, 3) if os.environ.get("HBSHIM_ZMQ_NETWORK") == "all" else (1500, 1)


class Events:
    """Counts notifications by what they say."""

    def __init__(self) -> None:
        self.got: Counter[int] = Counter()

    def info(self, notification: Notification) -> None:
        self.got[notification.payload] += 1


def left_out() -> int:
    """How many notifications a publisher has sent without one of the listeners."""
    return int(service.current().metrics.snapshot().get("zmq_listeners_left_out", 0))


def test_no_subscription_is_lost_with_a_proxy_that_restarts(nodes: Callable[[], Node]) -> None:
    node = nodes()
    # A burst of so many must not be more than what may wait for one subscriber.
    burst = {"HBSHIM_ZMQ_ZMQ_FANOUT_HWM": str(10 * TOPICS)}
    node.start(whole=True, environment=burst)
    topics = [f"topic-{number}" for number in range(TOPICS)]
    driver: messaging.Driver = node.driver(zmq_fanout_hwm=10 * TOPICS)
    pools = {"one": Events(), "other": Events()}
    notifier = Notifier(driver, topics, "here", timeout=4 * LIMIT)
    with ExitStack() as stack:
        for name, events in pools.items():
            server = NotificationServer(driver, topics, [events], pool=name, workers=2)
            assert stack.enter_context(server)
        for restart in range(RESTARTS + 1):
            if restart:
                node.end(signal.SIGKILL)
                node.start(whole=True, environment=burst)
                wait_until(lambda: figure(node, "servers") == len(pools), LIMIT)
            notifier.info("event", restart)
            for events in pools.values():
                wait_while_progressing(
                    lambda events=events, restart=restart: (  # type: ignore[misc]
                        events.got[restart] + left_out() >= TOPICS
                    ),
                    events.got.total,
                    LIMIT,
                )
    # A starved machine may take longer to connect than a publisher waits; those are counted.
    for events in pools.values():
        for restart in range(RESTARTS + 1):
            assert TOPICS - left_out() <= events.got[restart] <= TOPICS
    assert left_out() < TOPICS / 4
