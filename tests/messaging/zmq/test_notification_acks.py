"""Notifications that listeners acknowledge: each pool gets them, whatever dies or is late."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hbshim import messaging
from hbshim.errors import ConnectError, DeliveryError, UnroutableError
from hbshim.messaging import REQUEUE, Driver, Notification, NotificationServer, Notifier
from hbshim.messaging.zmq.driver import ZmqDriver
from hbshim.messaging.zmq.frames import notification_key
from tests.messaging.zmq.nodes import LIMIT, InBackground, Node, figure, server_process
from tests.waiting import wait_until

Nodes = Callable[[], Node]

#: Seconds for an acknowledgement: see test_acks.py.
SHORT, LONG = 0.4, 1.5


class Sink:
    """Notes what it is notified of, and handles it while it is released.

    Parameters:
        again: how often it requeues each notification.
    """

    def __init__(self, again: int = 0) -> None:
        self.seen: list[object] = []
        self.release = threading.Event()
        self.release.set()
        self._again = again

    def info(self, notification: Notification) -> str | None:
        self.seen.append(notification.payload)
        assert self.release.wait(LIMIT)
        return REQUEUE if self.seen.count(notification.payload) <= self._again else None


Listen = Callable[..., NotificationServer]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Start listeners; each is stopped when the test ends."""
    started: list[tuple[NotificationServer, Sink]] = []

    def start(
        driver: Driver, sink: Sink, pool: str | None = "pool", **how: object
    ) -> NotificationServer:
        made = NotificationServer(driver, ["events"], [sink], pool=pool, **how)  # type: ignore[arg-type]
        started.append((made, sink))
        assert made.start(LIMIT)
        return made

    yield start
    for server, sink in started:
        sink.release.set()
        server.stop(LIMIT)


def notifier(node: Node, *others: Node, wait: float = SHORT, **options: object) -> Notifier:
    """A publisher that waits until its notifications are handled."""
    options = {"rpc_retry_attempts": -1, "rpc_ack_timeout_multiplier": 1, **options}
    driver = node.driver(*others, notification_acks=True, rpc_ack_timeout_base=wait, **options)
    return Notifier(driver, "events", "test", timeout=LIMIT)


def test_it_returns_when_each_pool_has_handled_it(node: Node, listen: Listen) -> None:
    shared, alone, default = [Sink(), Sink()], Sink(), Sink()
    for sink in shared:
        listen(node.driver(), sink, "shared")
    listen(node.driver(), alone, "alone")
    listen(node.driver(), default, None)
    events = notifier(node, wait=LONG)
    alone.release.clear()
    sent = InBackground(lambda: events.info("happened", "x" * 600_000))
    wait_until(lambda: alone.seen and default.seen, LIMIT)
    assert sent.outcome is None
    alone.release.set()
    assert sent.join() is None
    for number in range(6):
        events.info("happened", number)
    expected = ["x" * 600_000, *range(6)]
    assert alone.seen == default.seen == expected
    assert sorted(map(str, shared[0].seen + shared[1].seen)) == sorted(map(str, expected))
    assert shared[0].seen
    assert shared[1].seen


def test_a_slow_listener_handles_it_once(node: Node, listen: Listen) -> None:
    """What is sent again meanwhile is recognised, and acknowledged with the first one."""
    sink = Sink()
    listen(node.driver(), sink)
    events = notifier(node)
    sink.release.clear()
    sent = InBackground(lambda: events.info("happened", 1))
    # The listener holds two, and more wait in the proxy.
    wait_until(lambda: figure(node, "handed_over") == 2 and figure(node, "expired") >= 1, LIMIT)
    sink.release.set()
    assert sent.join() is None
    events.info("happened", 2)
    assert sink.seen == [1, 2]


def test_what_a_listener_requeues_goes_to_another_one(nodes: Nodes, listen: Listen) -> None:
    one, two = nodes(), nodes()
    one.start()
    two.start()
    unwilling, willing = Sink(again=1000), Sink()
    listen(one.driver(), unwilling)
    listen(two.driver(), willing)
    events = notifier(one, two, wait=LONG, notification_retry_delay=0.01)
    for number in range(4):
        events.info("happened", number)
    assert willing.seen == [0, 1, 2, 3]
    assert unwilling.seen


def test_a_listener_handles_again_what_it_has_requeued_until_there_were_too_many_attempts(
    node: Node, listen: Listen
) -> None:
    sink = Sink(again=2)
    listen(node.driver(), sink, batch_size=None)
    events = notifier(node, wait=LONG, notification_retry_delay=0.01)
    events.info("happened", 1)
    assert sink.seen == [1, 1, 1]
    few = notifier(node, wait=LONG, notification_retry_delay=0.01, notification_retry_attempts=2)
    with pytest.raises(DeliveryError, match=r"was sent 2 times, .*its listener requeued it"):
        few.info("happened", 2)
    assert sink.seen == [1, 1, 1, 2, 2]


@pytest.mark.parametrize("acks", [True, False])
def test_a_listener_is_killed_and_another_one_of_its_pool_handles_it(
    nodes: Nodes, listen: Listen, acks: bool
) -> None:
    one, two = nodes(), nodes()
    one.start(whole=True)
    two.start(whole=True)
    sink = Sink()
    sure = notifier(one, two, wait=LONG)
    events = sure if acks else Notifier(one.driver(two), "events", "test")
    with server_process(one, "events") as process:
        sent = InBackground(lambda: events.info("happened", "first"))
        assert process.stdout is not None
        assert process.stdout.readline() == "handling\n"
        listen(two.driver(), sink)
        process.kill()
    assert sent.join() is None
    wait_until(lambda: sure.info("happened", "last") or "last" in sink.seen, LIMIT)
    assert ("first" in sink.seen) == acks


def test_a_paused_listener_leaves_them_to_another_host(nodes: Nodes, listen: Listen) -> None:
    one, two = nodes(), nodes()
    one.start()
    two.start()
    first, second = Sink(), Sink()
    paused = listen(one.driver(), first)
    listen(two.driver(), second)
    events = notifier(one, two, wait=LONG)
    paused.pause()
    sent = [InBackground(lambda n=n: events.info("happened", n)) for n in range(4)]  # type: ignore[misc]
    for each in sent:
        assert each.join() is None
    paused.resume()
    wait_until(lambda: events.info("happened", "last") or "last" in first.seen, LIMIT)
    assert [value for value in first.seen if value != "last"] == []
    assert sorted(str(value) for value in second.seen if value != "last") == list("0123")


def test_a_proxy_that_is_killed_loses_none(node: Node, listen: Listen) -> None:
    sinks = Sink(), Sink()
    for number, sink in enumerate(sinks):
        listen(node.driver(), sink, f"pool-{number}", prefetch=1)
        sink.release.clear()
    events = notifier(node, wait=LONG)
    sent = [InBackground(lambda n=n: events.info("happened", n)) for n in range(4)]  # type: ignore[misc]
    wait_until(lambda: figure(node, "waiting") >= 4, LIMIT)
    node.end(signal.SIGKILL)
    node.start()
    for sink in sinks:
        sink.release.set()
    for each in sent:
        assert each.join() is None
    for sink in sinks:
        assert sorted(map(str, sink.seen)) == list("0123")


def test_without_a_listener_it_fails_at_once_and_in_a_pool_that_does_not_answer_in_time(
    nodes: Nodes, listen: Listen
) -> None:
    node = nodes()
    events = notifier(node)
    events._timeout = 0.5
    with pytest.raises(ConnectError, match="none of its hosts can be reached"):
        events.info("happened", 0)
    node.start()
    events._timeout = LIMIT
    with pytest.raises(UnroutableError, match="no listener to 'info' is known"):
        events.info("happened", 0)
    stuck, well = Sink(), Sink()
    listen(node.driver(), stuck, "stuck")
    listen(node.driver(), well, "well")
    stuck.release.clear()
    events._timeout = 1.0
    with pytest.raises(DeliveryError, match=r"pool 'stuck', was sent .* 1 of 2 pools have it"):
        events.info("happened", 1)
    assert well.seen == [1]


def test_a_listener_that_was_left_out_is_asked_for_where_no_other_one_is_known(
    nodes: Nodes, listen: Listen, tmp_path: Path
) -> None:
    """Its proxy did not answer a moment ago, while another one did that has gone since."""
    directory = f"file://{tmp_path}/directory"
    node, sink = nodes(), Sink()
    node.start("--host", "one", "--directory", directory)
    listen(node.driver(notification_acks=True), sink)
    driver = messaging.connect("hbzmq://", fanout_ds_address=directory, notification_acks=True)
    assert isinstance(driver, ZmqDriver)
    try:
        key = notification_key(driver.options.default_notification_exchange, "events", "info")
        caller = driver._callers.get()
        (route,) = caller.directory.routes(key, time.monotonic() + LIMIT).routes
        for name in route.instances:
            caller.known_pools.leave_out(key, bytes.fromhex(name))
        Notifier(driver, "events", "test", timeout=LIMIT).info("happened", 1)
    finally:
        driver.close()
    assert sink.seen == [1]


def test_pools_are_known_from_the_directory_and_change_with_it(
    nodes: Nodes, listen: Listen, tmp_path: Path
) -> None:
    directory = f"file://{tmp_path}/directory"
    one, two = nodes(), nodes()
    for name, node in (("one", one), ("two", two)):
        node.start("--host", name, "--directory", directory)
    driver = messaging.connect(
        "hbzmq://",
        fanout_ds_address=directory,
        zmq_target_update=0.2,
        notification_acks=True,
        rpc_ack_timeout_base=LONG,
    )
    events = Notifier(driver, "events", "test", timeout=LIMIT)
    try:
        first, second, other = Sink(), Sink(), Sink()
        listen(one.driver(), first, "shared")
        wait_until(lambda: _arrives(events, first), LIMIT)
        with pytest.raises(UnroutableError, match="no listener to 'error' is known"):
            events.error("happened", 0)
        listen(two.driver(), second, "shared")
        leaving = listen(two.driver(), other, "other")
        wait_until(lambda: _arrives(events, second, other), LIMIT)
        leaving.stop(LIMIT)
        other.seen.clear()
        wait_until(lambda: _arrives(events, first, second), LIMIT)
        with server_process(two, "events") as process:
            third = Sink()
            process.kill()
            process.wait()
            # It is registered until its proxy notices, and in a pool of its own.
            listen(one.driver(), third, "pool")
            wait_until(lambda: _arrives(events, third), LIMIT)
        assert other.seen == []
    finally:
        driver.close()


def test_listeners_that_cannot_be_asked_for_their_pools_are_no_missing_listeners(
    nodes: Nodes, listen: Listen, tmp_path: Path
) -> None:
    directory = f"file://{tmp_path}/directory"
    node = nodes()
    node.start("--host", "one", "--directory", directory)
    listen(node.driver(), Sink())
    node.end(signal.SIGKILL)
    driver = messaging.connect("hbzmq://", fanout_ds_address=directory, notification_acks=True)
    try:
        with pytest.raises(ConnectError, match=r"none of its hosts can be reached"):
            Notifier(driver, "events", "test", timeout=LIMIT).info("happened", 1)
    finally:
        driver.close()


def _arrives(events: Notifier, *sinks: Sink) -> bool:
    """Whether a notification was handled by each of them; another listener may have been."""
    try:
        events.info("happened", "now")
    except UnroutableError:
        return False
    return all(sink.seen for sink in sinks)
