"""One driver over two backends: which one has what."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from hbshim import messaging
from hbshim.errors import HbshimError, OptionError
from hbshim.messaging.storing import require_store
from tests.messaging.amqp1.routers import Router
from tests.messaging.conftest import LIMIT, unique
from tests.messaging.endpoints import Endpoint
from tests.messaging.hybrid.conftest import Backend, wait_until_served
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker

Connect = Callable[..., messaging.Driver]
Start = Callable[..., messaging.Server]


class Listening:
    """Notes notifications."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def info(self, notification: messaging.Notification) -> None:
        self.heard.append(notification.payload)


def hybrid(broker: Broker, vhost: str, connect: Connect, **how: Any) -> messaging.Driver:
    """RPC over AMQP 1.0, notifications over AMQP 0-9-1, in one virtual host."""
    url = broker.amqp_url(vhost=vhost).replace("amqp://", "hbamqp://")
    return connect(url, notifications=url.replace("hbamqp://", "hbpika://"), **how)


def test_notifications_have_a_backend_of_their_own(
    broker: Broker, vhost: str, connect: Connect, start: Start, topic: messaging.Target
) -> None:
    driver = hybrid(broker, vhost, connect, messaging_backend="hybrid")
    start(driver, topic.to(server="one"), Endpoint("one"))
    assert messaging.Client(driver, topic, timeout=LIMIT).call("who") == "one"
    listening = Listening()
    server = messaging.NotificationServer(driver, [topic.topic], [listening])
    assert server.start(LIMIT)
    try:
        notifier = messaging.Notifier(driver, topic.topic, "here")
        notifier.info("done", {"number": 1})
        wait_until(lambda: listening.heard == [{"number": 1}], LIMIT)
    finally:
        server.stop(LIMIT)


def test_requests_are_stored_by_the_backend_that_stores(
    broker: Broker, vhost: str, connect: Connect, start: Start, topic: messaging.Target
) -> None:
    driver = hybrid(broker, vhost, connect)
    storing = require_store(driver)
    storing.declare_queue(topic, expires=60)
    task = messaging.Client(driver, topic, timeout=LIMIT).submit("who")
    start(driver, topic.to(server="one"), Endpoint("one"), acknowledge="after")
    assert task.result(LIMIT) == "one"
    assert storing.delete_queue(messaging.Target(unique("other"))) == 0


@pytest.mark.parametrize("over", ["router", "rabbitmq"])
def test_a_fanout_runs_once_where_the_store_is_also_another_backend(
    broker: Broker,
    vhost: str,
    router: Router,
    connect: Connect,
    start: Start,
    topic: messaging.Target,
    over: str,
) -> None:
    # The phases "cutover" and "draining" of a migration; or RPC over AMQP 1.0 at RabbitMQ.
    store = broker.amqp_url(vhost=vhost).replace("amqp://", "hbpika://")
    rpc, listen_also = store.replace("hbpika://", "hbamqp://"), []
    if over == "router":
        rpc = f"hbamqp://127.0.0.1:{router.port}/{vhost}?login_method=ANONYMOUS"
        listen_also = [store]
    endpoint = Endpoint()
    driver = connect(rpc, notifications=store, listen_also=listen_also)
    start(driver, topic.to(server="one"), endpoint)
    client = messaging.Client(connect(store), topic, timeout=LIMIT)
    wait_until_served(client)
    client.prepare(fanout=True).cast("echo", value="fanout")
    # Both queues of a server that listened twice would have it by then.
    for number in range(20):
        client.call("echo", value=number)
    wait_until(lambda: "fanout" in endpoint.asked, LIMIT)
    client.call("who")
    assert endpoint.asked.count("fanout") == 1


def test_nothing_is_stored_where_servers_do_not_listen_for_it(
    broker: Broker, vhost: str, connect: Connect, topic: messaging.Target
) -> None:
    driver = hybrid(broker, vhost, connect, stored_requests=False)
    assert not driver.capabilities.stores
    with pytest.raises(OptionError, match="does not store requests"):
        messaging.Client(driver, topic).submit("who")


def test_a_slow_backend_for_notifications_delays_no_call(
    one_pair: list[Backend], connect: Connect, start: Start, topic: messaging.Target
) -> None:
    driver = messaging.connect(one_pair[0].uncut, listen_also=[one_pair[1].url])
    try:
        start(driver, topic.to(server="one"), Endpoint("one"), workers=1, limit=1.0)
        client = messaging.Client(connect(one_pair[0].uncut), topic, timeout=LIMIT)
        wait_until_served(client)
        one_pair[1].wires.swallow()
        assert [client.call("who") for _ in range(20)] == ["one"] * 20
    finally:
        driver.close()


def test_a_forked_child_serves_nothing_and_calls_over_connections_of_its_own(
    one_pair: list[Backend], connect: Connect, start: Start, topic: messaging.Target
) -> None:
    driver = connect(one_pair[0].url, listen_also=[one_pair[1].url])
    server = start(driver, topic.to(server="one"), Endpoint("one"))
    client = messaging.Client(driver, topic, timeout=LIMIT)
    wait_until_served(client)
    pid = os.fork()
    if not pid:
        status = 1
        try:
            if client.call("who") == "one" and server.stop(1.0):
                status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    for each in one_pair:
        other = messaging.Client(connect(each.uncut), topic, timeout=LIMIT)
        assert other.call("who") == "one"


class ForeignListener:
    """A listener of another package: it has only what the interface has."""

    def __init__(self) -> None:
        self.on_error: Any = None
        self.waiting = threading.Semaphore(0)
        self.polls = 0
        self.stopped = False

    def open(self, timeout: float) -> bool:
        return True

    def poll(self, timeout: float | None = None, *_size: Any) -> list[Any]:
        self.polls += 1
        return ["foreign"] if self.waiting.acquire(timeout=timeout) else []

    def pause(self) -> None: ...
    def resume(self) -> None: ...

    def stop(self, timeout: float = 0.0) -> None:
        self.stopped = True

    def close(self, timeout: float = 0.0) -> None:
        self.stopped = True


def test_a_listener_that_can_only_poll_is_polled_while_a_worker_waits(
    one_pair: list[Backend], connect: Connect, topic: messaging.Target
) -> None:
    from hbshim.messaging.hybrid.foreign import as_member
    from hbshim.messaging.hybrid.joint_listener import JointListener

    foreign = ForeignListener()
    own = connect(one_pair[0].uncut).listen(topic.to(server="one"))
    joint: JointListener[Any] = JointListener([as_member(own), as_member(foreign)])
    assert joint.open(LIMIT)
    assert not foreign.polls
    try:
        foreign.waiting.release()
        assert list(joint.poll(LIMIT)) == ["foreign"]
        client = connect(one_pair[0].uncut)
        client.cast(topic, messaging.Payload(b"{}"), LIMIT)
        (message,) = joint.poll(LIMIT)
        assert message.payload.body == b"{}"
    finally:
        joint.close(LIMIT)
    assert foreign.stopped
    assert list(joint.poll(0)) == []


def test_the_thread_that_polls_ends_with_the_listener(
    one_pair: list[Backend], connect: Connect, topic: messaging.Target
) -> None:
    from hbshim.messaging.hybrid.foreign import as_member
    from hbshim.messaging.hybrid.joint_listener import JointListener

    foreign = ForeignListener()
    own = connect(one_pair[0].uncut).listen(topic.to(server="one"))
    errors: list[BaseException] = []
    joint: JointListener[Any] = JointListener([as_member(own), as_member(foreign)])
    joint.on_error = errors.append
    assert joint.open(LIMIT)
    before = set(threading.enumerate())
    polling = threading.Thread(target=joint.poll)
    polling.start()
    wait_until(lambda: foreign.polls, LIMIT)
    # It ends in the middle of a poll of the other listener, which returns later.
    joint.close(LIMIT)
    polling.join(LIMIT)
    wait_until(lambda: not set(threading.enumerate()) - before, LIMIT)
    assert not errors


def test_closing_closes_each_driver_whatever_another_raises(
    one_pair: list[Backend], connect: Connect, topic: messaging.Target
) -> None:
    driver = connect(one_pair[0].uncut, notifications=None, listen_also=[one_pair[1].uncut])
    driver.close()
    with pytest.raises(HbshimError, match="closed"):
        driver.listen(topic.to(server="one"))
