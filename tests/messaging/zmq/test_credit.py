"""When a server returns credit: not for each request, and yet no worker waits for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hbshim.messaging import Client, Server, Target
from tests.messaging.endpoints import Endpoint
from tests.messaging.zmq.nodes import LIMIT, InBackground, Node, figure
from tests.waiting import wait_until

TARGET = Target("compute")


@pytest.fixture
def client(node: Node) -> Client:
    return Client(node.driver(), TARGET, timeout=LIMIT)


def test_while_the_proxy_has_enough_it_is_told_nothing(
    node: Node, serve: Callable[..., Server], endpoint: Endpoint, client: Client
) -> None:
    serve(node.driver(), TARGET, endpoint, prefetch=10)
    for number in range(4):
        assert client.call("echo", value=number) == number
        assert figure(node, "credit") == 9 - number
    # What is returned on its arrival does not include this one.
    assert client.call("echo", value=4) == 4
    wait_until(lambda: figure(node, "credit") == 9, LIMIT)


@pytest.mark.parametrize("quick", range(1, 6))
def test_no_request_waits_in_the_proxy_while_a_worker_is_free(
    node: Node, serve: Callable[..., Server], endpoint: Endpoint, client: Client, quick: int
) -> None:
    serve(node.driver(), TARGET, endpoint, workers=10, prefetch=10, acknowledge="after")
    for number in range(quick):
        client.call("echo", value=number)
    held = [InBackground(lambda: client.call("hold")) for _ in range(10)]
    wait_until(lambda: endpoint.most == 10, LIMIT)
    endpoint.release.set()
    assert [each.join() for each in held] == [None] * 10
    wait_until(lambda: figure(node, "credit") > 5, LIMIT)


def test_a_server_with_credit_for_one_request_is_handed_one_after_another(
    node: Node, serve: Callable[..., Server], endpoint: Endpoint, client: Client
) -> None:
    serve(node.driver(), TARGET, endpoint, workers=1, prefetch=1)
    assert [client.call("echo", value=number) for number in range(5)] == list(range(5))


def test_a_proxy_that_restarts_learns_the_credit_that_was_not_returned(
    nodes: Callable[[], Node], serve: Callable[..., Server], endpoint: Endpoint
) -> None:
    node = nodes()
    node.start()
    serve(node.driver(), TARGET, endpoint, prefetch=10)
    client = Client(node.driver(), TARGET, timeout=LIMIT)
    for number in range(3):
        client.call("echo", value=number)
    assert figure(node, "credit") == 7
    node.end()
    node.start()
    wait_until(lambda: figure(node, "credit") == 10, LIMIT)
