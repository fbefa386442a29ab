"""Subscriptions of many topics, through restarts of the proxy: none may be lost.

The control is in test_traps.py: ZeroMQ's usual limit drops those beyond it without a word.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from hbshim import messaging
from hbshim.heartbeat import service
from hbshim.messaging import Notification, NotificationServer, Notifier
from tests.messaging.zmq.nodes import LIMIT, Node, figure
from tests.waiting import wait_until, wait_while_progressing


class Events:
    """Counts notifications by what they say."""

    def __init__(self) -> None:
        self.got: Counter[int] = Counter()

    def info(self, notification: Notification) -> None:
        self.got[notification.payload] += 1


def left_out() -> int:
    """How many notifications a publisher has sent without one of the listeners."""
    return int(service.current().metrics.snapshot().get("zmq_listeners_left_out", 0))


@pytest.mark.parametrize(
    ("count", "restarts"),
    # Beyond the limit of 1000 in both.
    [(1500, 1), pytest.param(5000, 10, marks=pytest.mark.extended)],
)
def test_no_subscription_is_lost_with_a_proxy_that_restarts(
    nodes: Callable[[], Node], count: int, restarts: int
) -> None:
    node = nodes()
    before = left_out()
    # A burst of so many must not be more than what may wait for one subscriber.
    burst = {"HBSHIM_ZMQ_ZMQ_FANOUT_HWM": str(10 * count)}
    node.start(whole=True, environment=burst)
    topics = [f"topic-{number}" for number in range(count)]
    driver: messaging.Driver = node.driver(zmq_fanout_hwm=10 * count)
    pools = {"one": Events(), "other": Events()}
    notifier = Notifier(driver, topics, "here", timeout=4 * LIMIT)
    with ExitStack() as stack:
        for name, events in pools.items():
            server = NotificationServer(driver, topics, [events], pool=name, workers=2)
            assert stack.enter_context(server)
        for restart in range(restarts + 1):
            if restart:
                node.end(signal.SIGKILL)
                node.start(whole=True, environment=burst)
                wait_until(lambda: figure(node, "servers") == len(pools), LIMIT)
            notifier.info("event", restart)
            for events in pools.values():
                wait_while_progressing(
                    lambda events=events, restart=restart: (  # type: ignore[misc]
                        events.got[restart] + left_out() - before >= count
                    ),
                    events.got.total,
                    LIMIT,
                )
    # A starved machine may take longer to connect than a publisher waits; those are counted.
    for events in pools.values():
        for restart in range(restarts + 1):
            assert count - left_out() + before <= events.got[restart] <= count
    assert left_out() - before < count / 4
