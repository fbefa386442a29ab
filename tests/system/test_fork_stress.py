"""A busy process that forks again and again; the command of this makes ten thousand forks."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.concurrency import needs_os_threads
from wsgi_harness.stack.broker import Broker

pytestmark = [needs_os_threads, pytest.mark.alone]

FORKS = 300


def test_no_child_hangs_and_no_parent_loses_a_connection(broker: Broker) -> None:
    url = f"amqp://{broker.user}:{broker.password}@{broker.host}:{broker.amqp_port}"
    command = [sys.executable, "-m", "tests.system.fork_stress", "--forks", str(FORKS), url]
    done = subprocess.run(
        [*command, str(broker.tls_port)], capture_output=True, text=True, timeout=240
    )
    assert done.stdout, done.stderr
    result = json.loads(done.stdout)
    assert result["children"] == {"ended": FORKS}, done.stderr
    assert result["lost"] == []
    assert result["heartbeats"] > 0
    assert done.returncode == 0, done.stderr
