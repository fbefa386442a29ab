"""Real Celery, each pool as worker and as producer, behind a firewall that forgets.

Celery's own heartbeats hold the consumer of its event loop and of its green pools, and
nothing else: not what `solo` and `threads` consume from, nor any pool of producers. The
broker expects no heartbeat on those, so what drops them lies between: here a relay that
forgets, without a word, each connection whose client said nothing for 1.5 T
(celery#9187). The controls run the same without hbshim.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import celery
import kombu
import pytest

from tests.runtime.hosting import CHECKOUT, Host, hosted
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay

# A fleet of processes on two cores.
pytestmark = pytest.mark.alone

T = 2
#: More than 4 T, as silence and as the length of a task.
LONG = 4.5 * T
FORGETFUL = 1.5 * T
POOLS = ["prefork", "threads", "solo", "gevent", "eventlet"]
WEB = ["plain", "gunicorn"]
APP = "tests.system.celery_app"
_numbers = itertools.count(1)

WORKER = [sys.executable, "-m", "celery", "-A", APP, "worker", "-c", "1", "-l", "info"]
# Without mingle, which hangs in Celery 5.7 itself when a worker starts alone.
WORKER += ["--without-mingle", "--without-gossip"]
GUNICORN = [sys.executable, "-m", "gunicorn", "--bind", "unix:{socket}", "--timeout", "300"]
SERVERS = {
    "plain": [sys.executable, "-m", "tests.system.host_app", "{socket}"],
    "gunicorn": [*GUNICORN, "--workers", "1", "tests.system.host_app"],
}


@dataclasses.dataclass
class Row:
    """One worker, or web process, with hbshim or without.

    Attributes:
        queue: what the worker consumes; None for a web process.
        sink: where both produce to.
        opened: connections it had opened before the silence.
        arrived: messages in the sink, in the end.
        said: errors of a web process's publish.
    """

    host: Host
    relay: Relay
    queue: str | None
    sink: str
    shim: bool
    opened: int = 0
    arrived: int = 0
    said: list[str | None] = dataclasses.field(default_factory=list)

    def story(self) -> str:
        """Evidence for finding out why a row failed."""
        events = (event for event in self.relay.events if event.kind != "heartbeat")
        return "\n".join([*map(str, events), self.host.log()])


class Celeries:
    """All rows side by side, and the broker behind them."""

    def __init__(self, broker: Broker, stack: contextlib.ExitStack) -> None:
        self._broker, self._stack = broker, stack
        self._channel = stack.enter_context(kombu.Connection(broker.amqp_url())).channel()
        self._app = celery.Celery("caller", broker=broker.amqp_url(), set_as_current=False)
        stack.callback(self._app.close)
        self.rows: dict[tuple[str, bool], Row] = {}

    def start_worker(self, pool: str, shim: bool) -> None:
        relay, url = self._relay()
        queue, sink = self._declare("queue"), self._declare("sink")
        variables = {
            "URL": url,
            "BROKER_HEARTBEAT": str(T),
            "QUEUE": queue,
            "SINK": sink,
            "SHIM": "celery app" if shim else "",
            "PYTHONWARNINGS": "ignore",
        }
        # Two workers of one name take each other's control queue.
        command = [*WORKER, "-P", pool, "-n", f"{queue}@test"]
        host = self._stack.enter_context(hosted(*command, variables=variables))
        self.rows[pool, shim] = Row(host, relay, queue, sink, shim)

    def start_web(self, kind: str, shim: bool) -> None:
        relay, url = self._relay()
        sink = self._declare("sink")
        config = {"shim": shim, "url": url, "heartbeat": T, "names": {"celery": sink}}
        variables = {"HOST_ORDERS": json.dumps(config)}
        host = self._stack.enter_context(hosted(*SERVERS[kind], variables=variables))
        self.rows[kind, shim] = Row(host, relay, None, sink, shim)

    def _relay(self) -> tuple[Relay, str]:
        relay = self._stack.enter_context(Relay(self._broker.host, self._broker.amqp_port))
        return relay, dataclasses.replace(self._broker, amqp_port=relay.port).amqp_url()

    def _declare(self, what: str) -> str:
        name = f"celery-{what}-{os.getpid()}-{next(_numbers)}"
        self._channel.queue_declare(
            name, durable=True, auto_delete=False, arguments={"x-expires": 300_000}
        )
        return name

    def send(self, row: Row, task: str, *arguments: Any) -> None:
        """Have a worker do something."""
        self._app.send_task(
            f"{APP}.{task}", arguments, queue=kombu.Queue(row.queue, no_declare=True)
        )

    def count(self, row: Row) -> int:
        row.arrived = self._channel.queue_declare(row.sink, passive=True).message_count
        return row.arrived

    def produce(self, word: str) -> None:
        """Have each of them publish once."""
        for row in self.rows.values():
            if row.queue is None:
                row.said.append(row.host.get("/publish")["answer"]["celery"])
            else:
                self.send(row, "pass_on", word)

    def wait_for(self, total: int, rows: list[Row], limit: float) -> None:
        """Wait until each has produced as much, or the time is over."""

        def arrived() -> bool:
            # The relays share this process: it must not be busy asking.
            time.sleep(0.2)
            return all(self.count(row) >= total for row in rows)

        with contextlib.suppress(AssertionError):
            wait_until(arrived, limit)


@pytest.fixture(scope="module")
def rows(broker: Broker) -> Iterator[dict[tuple[str, bool], Row]]:
    """Everyone after a silence, and after a long task."""
    with contextlib.ExitStack() as stack:
        celeries = Celeries(broker, stack)
        for shim in (True, False):
            for pool in POOLS:
                celeries.start_worker(pool, shim)
            for kind in WEB:
                celeries.start_web(kind, shim)
        everyone = list(celeries.rows.values())
        for row in everyone:
            if row.queue is None:
                row.host.wait_until_serving()
                row.host.get("/open")
            else:
                row.host.wait_until_said("ready.")
        celeries.produce("before")
        celeries.wait_for(1, everyone, 60)
        for row in everyone:
            row.opened = len(row.relay.seen("opened"))
            row.relay.forget_idle(FORGETFUL)
        end = time.monotonic() + LONG
        wait_until(lambda: time.monotonic() > end, LONG + 5)
        celeries.produce("after a silence")
        with_hbshim = [row for row in everyone if row.shim]
        celeries.wait_for(2, with_hbshim, 60)
        for row in everyone:
            if row.queue is not None:
                celeries.send(row, "nap", LONG)
        # Queued behind the long task; a web process publishes at once.
        celeries.produce("after a long task")
        celeries.wait_for(3, with_hbshim, LONG + 60)
        for row in everyone:
            celeries.count(row)
        yield celeries.rows


@pytest.mark.parametrize("kind", [*POOLS, *WEB])
def test_with_hbshim_nothing_is_dropped_and_nothing_lost(
    rows: dict[tuple[str, bool], Row], kind: str
) -> None:
    row = rows[kind, True]
    assert row.arrived == 3, row.story()
    assert row.relay.seen("forgotten") == []
    assert len(row.relay.seen("opened")) == row.opened, row.story()
    assert row.relay.errors == []
    assert not any(row.said)
    assert "onnection to broker lost" not in row.host.log()


@pytest.mark.parametrize("kind", [*POOLS, *WEB])
def test_without_hbshim_connections_are_dropped_and_messages_lost(
    rows: dict[tuple[str, bool], Row], kind: str
) -> None:
    row = rows[kind, False]
    assert row.relay.seen("forgotten"), "the control survived"
    assert row.arrived < 3, "the control lost nothing"


# Three calls, each after 4 T in which nothing is published.
CALLER = """
import time
from tests.system.celery_app import nap
for _ in range(3):
    print(nap.delay(2).get(timeout=30))
    time.sleep(4)
"""


def test_an_unchanged_worker_and_its_caller(broker: Broker) -> None:
    """`hbshim run`, a real result backend, a heartbeat from the environment."""
    variables = {
        "URL": broker.amqp_url(),
        "BROKER_HEARTBEAT": "1",
        "QUEUE": f"hbshim-celery-{os.getpid()}",
        "SINK": "",
        "SHIM": "",
        "PYTHONWARNINGS": "ignore",
        "HBSHIM_HEARTBEAT": "1",
    }
    with kombu.Connection(broker.amqp_url()) as connection:
        connection.channel().queue_declare(
            variables["QUEUE"], durable=True, auto_delete=False, arguments={"x-expires": 300_000}
        )
    run = [sys.executable, "-m", "hbshim", "run", "--"]
    with hosted(*run, *WORKER, "-P", "prefork", variables=variables) as worker:
        worker.wait_until_said("ready.")
        done = subprocess.run(
            [*run, sys.executable, "-c", CALLER],
            env={**os.environ, **variables, "PYTHONPATH": str(CHECKOUT)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert len(done.stdout.split()) == 3, done.stderr + worker.log()
        assert "onnection to broker lost" not in worker.log()
        assert broker.password not in worker.log()
