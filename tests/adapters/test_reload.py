"""``importlib.reload()`` makes new classes; their connections are kept alive, too."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.brokers import HEARTBEAT
from tests.stress.child import clean_environment
from wsgi_harness.stack.broker import Broker

PROGRAM = Path(__file__).with_name("reloading.py")


@pytest.mark.parametrize(
    "case",
    [
        "amqp.connection",
        "amqp.connection, old class",
        "amqp",
        "amqp.connection and amqp",
        "amqp.connection twice",
        "amqp.connection, kombu",
        "kombu.connection",
        "kombu.transport.pyamqp",
        "pika",
        "pika, all of it",
    ],
)
def test_a_connection_of_a_reloaded_class_is_kept_alive(broker: Broker, case: str) -> None:
    host, url = f"{broker.host}:{broker.amqp_port}", broker.amqp_url()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", PROGRAM, case, host, url, broker.user, broker.password],
        capture_output=True,
        text=True,
        timeout=120,
        env=clean_environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # pika takes what the broker proposes.
    assert found["timeouts"] == [float(HEARTBEAT) if case.startswith("pika") else 3.0]
    assert found["events"] == []
