"""A server that listens to two backends, on the real broker."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from hbshim import messaging
from hbshim.errors import CallTimeoutError, MessagingError
from tests.messaging.conftest import LIMIT, at_once
from tests.messaging.endpoints import Endpoint
from tests.messaging.hybrid.conftest import Backend, wait_until_served
from tests.messaging.zmq.nodes import Node
from tests.waiting import wait_until


def clients_of(
    connect: Callable[..., messaging.Driver], backends: list[Backend], topic: messaging.Target
) -> list[messaging.Client]:
    """A client of each backend, past the relays."""
    return [messaging.Client(connect(each.uncut), topic, timeout=LIMIT) for each in backends]


def test_one_server_answers_over_the_backend_that_asked(
    backends: list[Backend],
    connect: Callable[..., messaging.Driver],
    start: Callable[..., messaging.Server],
    topic: messaging.Target,
) -> None:
    endpoint = Endpoint()
    driver = connect(backends[0].url, listen_also=[backends[1].url])
    start(driver, topic.to(server="one"), endpoint)
    old, new = clients_of(connect, backends, topic)
    calls = [
        lambda number=number, c=c: c.call("echo", value=number)
        for number in range(40)
        for c in (old, new)
    ]
    assert at_once(*calls) == [number for number in range(40) for _ in range(2)]
    assert sorted(endpoint.asked) == sorted([*range(40), *range(40)])


@pytest.mark.parametrize("workers", [1, 3])
def test_a_message_is_taken_only_if_a_worker_is_free(
    one_pair: list[Backend],
    connect: Callable[..., messaging.Driver],
    start: Callable[..., messaging.Server],
    topic: messaging.Target,
    workers: int,
) -> None:
    endpoint = Endpoint()
    driver = connect(one_pair[0].url, listen_also=[one_pair[1].url])
    start(driver, topic.to(server="one"), endpoint, workers=workers)
    old, new = clients_of(connect, one_pair, topic)
    for number in range(4):
        old.cast("hold", value=("old", number))
        new.cast("hold", value=("new", number))
    wait_until(lambda: len(endpoint.asked) == workers, LIMIT)
    # Both backends have messages, and more time than a delivery takes.
    for client in (old, new):
        with pytest.raises(CallTimeoutError):
            client.prepare(timeout=0.5).call("echo", value=None)
    assert len(endpoint.asked) == workers
    endpoint.release.set()
    wait_until(lambda: len(endpoint.asked) >= 8, LIMIT)
    assert endpoint.most == workers


def test_no_thread_feeds_the_workers(
    one_pair: list[Backend],
    connect: Callable[..., messaging.Driver],
    start: Callable[..., messaging.Server],
    topic: messaging.Target,
) -> None:
    driver = connect(one_pair[0].url, listen_also=[one_pair[1].url])
    start(driver, topic.to(server="one"), Endpoint())
    for client in clients_of(connect, one_pair, topic):
        wait_until_served(client)
    assert not [each.name for each in threading.enumerate() if "hbshim-joint" in each.name]


def test_a_dead_backend_delays_no_other_and_is_found_again(
    backends: list[Backend],
    connect: Callable[..., messaging.Driver],
    start: Callable[..., messaging.Server],
    topic: messaging.Target,
) -> None:
    backends[1].wires.stop()
    driver = connect(backends[0].url, listen_also=[backends[1].url])
    start(driver, topic.to(server="one"), Endpoint(), workers=1, limit=0.5, on_error=ignore)
    old, new = clients_of(connect, backends, topic)
    wait_until_served(old)
    for number in range(50):
        assert old.call("echo", value=number) == number
    backends[1].wires.accept()
    wait_until_served(new)
    backends[0].wires.stop()
    for number in range(20):
        assert new.call("echo", value=number) == number
    backends[0].wires.accept()
    wait_until_served(old)


def test_a_half_open_backend_delays_no_other(
    backends: list[Backend],
    connect: Callable[..., messaging.Driver],
    start: Callable[..., messaging.Server],
    topic: messaging.Target,
) -> None:
    driver = connect(backends[0].url, listen_also=[backends[1].url])
    start(driver, topic.to(server="one"), Endpoint(), workers=1, on_error=ignore)
    old, new = clients_of(connect, backends, topic)
    wait_until_served(old)
    wait_until_served(new)
    # What is open answers no more, and what is opened from now on never does.
    backends[1].wires.swallow()
    for number in range(50):
        assert old.call("echo", value=number) == number
    backends[1].wires.cut()
    backends[1].wires.swallow()
    for number in range(50):
        assert old.call("echo", value=number) == number
    backends[1].wires.cut()
    wait_until_served(new)


def test_a_reply_over_a_lost_backend_occupies_no_worker(
    one_pair: list[Backend],
    connect: Callable[..., messaging.Driver],
    start: Callable[..., messaging.Server],
    topic: messaging.Target,
) -> None:
    endpoint = Endpoint()
    driver = connect(one_pair[0].url, listen_also=[one_pair[1].url])
    start(driver, topic.to(server="one"), endpoint, workers=1, on_error=ignore)
    old, new = clients_of(connect, one_pair, topic)
    for client in (old, new):
        wait_until_served(client)
    calling, answers = held_call(old, endpoint)
    one_pair[0].wires.stop()
    endpoint.release.set()
    # The caller of the lost backend waits for longer.
    assert new.prepare(timeout=LIMIT / 2).call("echo", value="other") == "other"
    assert not answers
    one_pair[0].wires.accept()
    calling.join(LIMIT)
    assert answers == ["held"]


def test_a_server_that_stops_has_not_ended_before_its_replies(
    one_pair: list[Backend],
    connect: Callable[..., messaging.Driver],
    topic: messaging.Target,
) -> None:
    endpoint = Endpoint()
    driver = connect(one_pair[0].url, listen_also=[one_pair[1].url])
    target = topic.to(server="one")
    server = messaging.Server(driver, target, [endpoint], workers=1, on_error=ignore)
    assert server.start(LIMIT)
    old, new = clients_of(connect, one_pair, topic)
    calling, answers = held_call(old, endpoint)
    one_pair[0].wires.stop()
    endpoint.release.set()
    # The worker is free again, so the reply is left.
    wait_until_served(new)
    ended: list[bool] = []
    stopping = threading.Thread(target=lambda: ended.append(server.stop(LIMIT)))
    stopping.start()
    # The other backend has lost the server: it has stopped, and waits.
    wait_until(lambda: not answers_within(new, 0.3), LIMIT)
    assert not ended
    one_pair[0].wires.accept()
    stopping.join(2 * LIMIT)
    calling.join(LIMIT)
    assert ended == [True]
    assert answers == ["held"]


def test_a_server_whose_reply_cannot_be_sent_has_not_ended(
    one_pair: list[Backend],
    connect: Callable[..., messaging.Driver],
    topic: messaging.Target,
) -> None:
    endpoint = Endpoint()
    driver = connect(one_pair[0].url, listen_also=[one_pair[1].url])
    target = topic.to(server="one")
    server = messaging.Server(driver, target, [endpoint], workers=1, on_error=ignore)
    assert server.start(LIMIT)
    old, new = clients_of(connect, one_pair, topic)
    calling, _ = held_call(old.prepare(timeout=10.0), endpoint)
    one_pair[0].wires.stop()
    endpoint.release.set()
    wait_until_served(new)
    assert not server.stop(0.5)
    calling.join(2 * LIMIT)


def test_stop_during_the_wait_ends_it_and_returns_what_was_not_begun(
    backends: list[Backend],
    connect: Callable[..., messaging.Driver],
    topic: messaging.Target,
) -> None:
    first, second = Endpoint(), Endpoint()
    second.release.set()
    driver = connect(backends[0].url, listen_also=[backends[1].url])
    server = messaging.Server(driver, topic.to(server="one"), [first], workers=1, prefetch=10)
    assert server.start(LIMIT)
    old, new = clients_of(connect, backends, topic)
    # Over a router, a cast returns when a server has taken it.
    casting = [
        threading.Thread(target=client.cast, args=("hold",), kwargs={"value": number})
        for client in (old, new)
        for number in range(3)
    ]
    for each in casting:
        each.start()
    wait_until(lambda: first.asked, LIMIT)
    stopped: list[bool] = []
    stopping = threading.Thread(target=lambda: stopped.append(server.stop(LIMIT)))
    stopping.start()
    first.release.set()
    stopping.join(2 * LIMIT)
    assert stopped == [True]
    other = messaging.Server(driver, topic.to(server="two"), [second], workers=1)
    assert other.start(LIMIT)
    try:
        wait_until(lambda: len(first.asked) + len(second.asked) == 6, LIMIT)
        for each in casting:
            each.join(LIMIT)
    finally:
        other.stop(LIMIT)


def test_an_idle_server_stops_at_once(
    backends: list[Backend],
    connect: Callable[..., messaging.Driver],
    topic: messaging.Target,
) -> None:
    driver = connect(backends[0].url, listen_also=[backends[1].url])
    server = messaging.Server(driver, topic.to(server="one"), [Endpoint()])
    assert server.start(LIMIT)
    server.pause()
    server.resume()
    for client in clients_of(connect, backends, topic):
        wait_until_served(client)
    assert server.stop(LIMIT)


def test_closing_the_driver_ends_its_servers(
    one_pair: list[Backend],
    connect: Callable[..., messaging.Driver],
    topic: messaging.Target,
) -> None:
    driver = connect(one_pair[0].url, listen_also=[one_pair[1].url])
    listener = driver.listen(topic.to(server="one"))
    assert listener.open(LIMIT)
    polled: list[Any] = []
    thread = threading.Thread(target=lambda: polled.append(listener.poll(LIMIT)))
    thread.start()
    driver.close()
    listener.close()
    thread.join(2 * LIMIT)
    assert polled == [[]]


def test_zeromq_takes_part(
    one_pair: list[Backend],
    connect: Callable[..., messaging.Driver],
    start: Callable[..., messaging.Server],
    topic: messaging.Target,
) -> None:
    endpoint, node = Endpoint(), Node()
    try:
        node.start(whole=True)
        url = f"{node.url}?rpc_zmq_ipc_dir={quote(node.ipc, safe='')}"
        driver = connect(one_pair[0].url, listen_also=[url])
        # Two: one may still be sending a reply over the backend that dies.
        start(driver, topic.to(server="one"), endpoint, workers=2)
        clients = [
            messaging.Client(connect(each), topic, timeout=LIMIT)
            for each in (one_pair[0].uncut, url)
        ]
        for client in clients:
            wait_until_served(client)
        calls = [
            functools.partial(client.call, "echo", value=number)
            for number in range(20)
            for client in clients
        ]
        assert at_once(*calls) == [number for number in range(20) for _ in clients]
        one_pair[0].wires.stop()
        assert [clients[1].call("echo", value=number) for number in range(20)] == [*range(20)]
    finally:
        node.close()


def answers_within(client: messaging.Client, seconds: float) -> bool:
    """Whether a server answers in time."""
    try:
        return bool(client.prepare(timeout=seconds).call("echo", value=1) == 1)
    except MessagingError:
        return False


def held_call(client: messaging.Client, endpoint: Endpoint) -> tuple[threading.Thread, list[Any]]:
    """Call a method that waits for `endpoint.release`; return when a server has begun it.

    Returns:
        The thread of the call, and what has come of it: its result, or the error.
    """
    outcome: list[Any] = []

    def call() -> None:
        try:
            outcome.append(client.call("hold", value="held"))
        except MessagingError as error:
            outcome.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    wait_until(lambda: "held" in endpoint.asked, LIMIT)
    return thread, outcome


def ignore(_error: BaseException) -> None:
    """Errors are expected here."""
