"""Messages in programs of each concurrency model, and across a fork."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hbshim.messaging import Server, Target
from tests.messaging.endpoints import Endpoint
from tests.messaging.zmq.nodes import Node, run_program


@pytest.mark.parametrize("model", ["native", "eventlet", "gevent"])
def test_many_callers_and_a_thread_that_lets_no_other_run(node: Node, model: str) -> None:
    assert run_program(node, model, "calls") == ["True", "waited", "ended"]


@pytest.mark.parametrize("model", ["native", "eventlet", "gevent"])
def test_casts_that_are_acknowledged_late(node: Node, model: str) -> None:
    assert run_program(node, model, "casts") == ["True", "ended"]


@pytest.mark.parametrize("what", ["publish", "acknowledged"])
@pytest.mark.parametrize("model", ["native", "eventlet", "gevent"])
def test_fanouts_and_notifications(nodes: Callable[[], Node], model: str, what: str) -> None:
    node = nodes()
    node.start(whole=True)
    expected = ["fanout", "notification", "notification"]
    assert run_program(node, model, what) == [str(expected), "ended"]


@pytest.mark.parametrize("model", ["native", "eventlet", "gevent"])
def test_a_forked_child_calls_over_connections_of_its_own(
    node: Node, serve: Callable[..., Server], endpoint: Endpoint, model: str
) -> None:
    serve(node.driver(), Target("elsewhere"), endpoint)
    assert run_program(node, model, "fork") == ["before", "child", "0", "parent", "ended"]
    assert endpoint.asked == ["before", "child", "parent"]


def test_the_copies_of_green_callers_in_a_forked_child_take_nothing_from_its_parent(
    node: Node, serve: Callable[..., Server], endpoint: Endpoint
) -> None:
    """Under gevent: a child of an eventlet program shares its hub's epoll, and needs a new one."""
    serve(node.driver(), Target("elsewhere"), endpoint)
    assert run_program(node, "gevent", "copied") == [
        "child: ['ConnectionLostError', 'ConnectionLostError']",
        "parent: ['at last', 'at last'] True",
        "ended",
    ]
