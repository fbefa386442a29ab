"""Messages in programs of each concurrency model, and across a fork."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hbshim.messaging import Server, Target
from tests.messaging.endpoints import Endpoint
from tests.messaging.zmq.nodes import Node

PROGRAM = str(Path(__file__).with_name("program.py"))


def run(node: Node, *arguments: str) -> list[str]:
    """What a program prints, which must end well."""
    model, what = arguments
    done = subprocess.run(
        [sys.executable, PROGRAM, model, node.url, node.ipc, what],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize("model", ["native", "eventlet", "gevent"])
def test_many_callers_and_a_thread_that_lets_no_other_run(node: Node, model: str) -> None:
    assert run(node, model, "calls") == ["True", "waited", "ended"]


@pytest.mark.parametrize("model", ["native", "eventlet", "gevent"])
def test_casts_that_are_acknowledged_late(node: Node, model: str) -> None:
    assert run(node, model, "casts") == ["True", "ended"]


@pytest.mark.parametrize("model", ["native", "eventlet", "gevent"])
def test_fanouts_and_notifications(nodes: Callable[[], Node], model: str) -> None:
    node = nodes()
    node.start(whole=True)
    expected = ["fanout", "notification", "notification"]
    assert run(node, model, "publish") == [str(expected), "ended"]


@pytest.mark.parametrize("model", ["native", "eventlet", "gevent"])
def test_a_forked_child_calls_over_connections_of_its_own(
    node: Node, serve: Callable[..., Server], endpoint: Endpoint, model: str
) -> None:
    serve(node.driver(), Target("elsewhere"), endpoint)
    assert run(node, model, "fork") == ["before", "child", "0", "parent", "ended"]
    assert endpoint.asked == ["before", "child", "parent"]
