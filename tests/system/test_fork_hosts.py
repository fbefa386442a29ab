"""Servers that fork after the application has connected, or before.

gunicorn with and without --preload, uWSGI with and without lazy-apps, Celery's prefork
pool; each behind a relay of its own, which shows whose frames went over the master's
connections. The controls do the same without hbshim.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import celery
import kombu
import pytest

from tests.runtime.hosting import CURRENT_UWSGI, UWSGI_SOCKET, Host, hosted, uwsgi_program
from tests.system.streams import Stream
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay

# A fleet of processes on two cores.
pytestmark = pytest.mark.alone

T = 2
APP = "tests.system.host_app"
CELERY_APP = "tests.system.celery_app"
#: In this order the application opens them, so these are their numbers at the relay; the
#: pool of a Celery app connects last, when it is first used.
LIBRARIES = {"kombu": 1, "pika": 2, "celery": 3}
_numbers = itertools.count(1)


def gunicorn(*options: str) -> list[str | Path]:
    server = [sys.executable, "-m", "gunicorn", "--bind", "unix:{socket}", "--timeout", "300"]
    return [*server, "--workers", "1", *options, APP]


def uwsgi(*options: str) -> list[str | Path]:
    server: list[str | Path] = [uwsgi_program(CURRENT_UWSGI), "--home", sys.prefix, *UWSGI_SOCKET]
    return [*server, "--need-app", "--master", "--enable-threads", "--module", APP, *options]


CONNECT_THEN_FORK: dict[str, Callable[[], list[str | Path]]] = {
    "gunicorn-preload": lambda: gunicorn("--preload"),
    "uwsgi": lambda: uwsgi(),
}
FORK_THEN_CONNECT: dict[str, Callable[[], list[str | Path]]] = {
    "gunicorn": lambda: gunicorn(),
    "uwsgi-lazy-apps": lambda: uwsgi("--lazy-apps"),
}


class Row:
    """One server, and what its worker could do.

    Attributes:
        first: what each library said in the worker to the connection that the
            application opened at import.
        inherited: messages that had arrived by then, by library; one is from the import.
        again: what each library said to a connection that the worker opened.
        arrived: messages in the end.
        opened: connections before the worker published.
    """

    def __init__(self, host: Host, relay: Relay, queues: dict[str, str]) -> None:
        self.host, self.relay, self.queues = host, relay, queues
        self.first: dict[str, str | None] = {}
        self.again: dict[str, str | None] = {}
        self.answers: list[dict[str, str | None]] = []
        self.inherited: dict[str, int] = {}
        self.arrived: dict[str, int] = {}
        self.opened = 0
        self.heartbeats_of_master: dict[str, bool] = {}
        self.error: Exception | None = None

    def write(self, broker: Broker, master_heartbeats: bool) -> None:
        """Have the worker use what it has, then what it opens; from a thread of its own."""
        with kombu.Connection(broker.amqp_url()) as connection:
            channel = connection.channel()

            def count() -> dict[str, int]:
                # What was accepted arrives, however busy the machine is; all else is counted, too.
                def now() -> dict[str, int]:
                    return {
                        library: channel.queue_declare(queue, passive=True).message_count
                        for library, queue in self.queues.items()
                    }

                accepted = {
                    library: 1 + sum(said.get(library, "") is None for said in self.answers)
                    for library in self.queues
                }
                with contextlib.suppress(AssertionError):
                    wait_until(lambda: all(now()[name] >= accepted[name] for name in accepted), 30)
                return now()

            self.host.wait_until_serving()
            # uWSGI accepts before it has loaded the application.
            self.host.get("/")
            streams = {name: Stream(self.relay, LIBRARIES[name]) for name in self.queues}
            before = {
                name: stream.after_next_heartbeat()
                for name, stream in streams.items()
                if master_heartbeats
            }
            self.opened = len(self.relay.seen("opened"))
            self.first = self.host.get("/publish")["answer"]
            self.answers.append(self.first)
            self.inherited = count()
            self.host.get("/open")
            self.again = self.host.get("/publish")["answer"]
            self.answers.append(self.again)
            self.arrived = count()
            for name in before:
                streams[name].check_only_heartbeats_since(before[name])


@dataclasses.dataclass
class Rows:
    """Starts servers, with queues that outlive their connections."""

    broker: Broker
    stack: contextlib.ExitStack
    channel: Any

    def start(self, command: list[str | Path], shim: bool) -> Row:
        mark = f"{os.getpid()}-{next(_numbers)}"
        queues = {library: self.declare(f"fork-{library}-{mark}") for library in LIBRARIES}
        relay, url = self.relay()
        config = {"shim": shim, "url": url, "heartbeat": T, "names": queues}
        config["connect"] = "at import"
        variables = {"HOST_ORDERS": json.dumps(config)}
        host = self.stack.enter_context(hosted(*command, variables=variables))
        return Row(host, relay, queues)

    def relay(self) -> tuple[Relay, str]:
        relay = self.stack.enter_context(Relay(self.broker.host, self.broker.amqp_port))
        return relay, dataclasses.replace(self.broker, amqp_port=relay.port).amqp_url()

    def declare(self, queue: str) -> str:
        self.channel.queue_declare(
            queue, durable=True, auto_delete=False, arguments={"x-expires": 300_000}
        )
        return queue


@pytest.fixture(scope="module")
def rows(broker: Broker) -> Iterator[dict[tuple[str, bool], Row | str]]:
    """Every server after its worker has published, or why there is none."""
    wanted = {(name, True): command for name, command in FORK_THEN_CONNECT.items()}
    for shim in (True, False):
        wanted |= {(name, shim): command for name, command in CONNECT_THEN_FORK.items()}
    found: dict[tuple[str, bool], Row | str] = {}
    with contextlib.ExitStack() as stack:
        channel = stack.enter_context(kombu.Connection(broker.amqp_url())).channel()
        starting = Rows(broker, stack, channel)
        for (name, shim), command in wanted.items():
            try:
                found[name, shim] = starting.start(command(), shim)
            except pytest.skip.Exception as missing:
                found[name, shim] = str(missing)
        with ThreadPoolExecutor(len(wanted)) as reporters:
            for (name, shim), row in found.items():
                if isinstance(row, Row):
                    reporters.submit(write, row, broker, shim and name in CONNECT_THEN_FORK)
        yield found


def write(row: Row, broker: Broker, master_heartbeats: bool) -> None:
    try:
        row.write(broker, master_heartbeats)
    except Exception as error:
        row.error = error


def row_of(rows: dict[tuple[str, bool], Row | str], host: str, shim: bool) -> Row:
    row = rows[host, shim]
    if isinstance(row, str):
        pytest.skip(row)
    if row.error is not None:
        raise AssertionError(row.host.log()) from row.error
    return row


@pytest.mark.parametrize("host", CONNECT_THEN_FORK)
def test_a_worker_gets_a_clear_error_or_a_fresh_connection(rows: Any, host: str) -> None:
    row = row_of(rows, host, True)
    for library in ("kombu", "pika"):
        assert "belongs to the parent process" in (row.first[library] or "accepted")
    assert row.first["celery"] is None
    assert row.inherited == {"kombu": 1, "pika": 1, "celery": 2}
    assert row.again == dict.fromkeys(LIBRARIES)
    assert row.arrived == {"kombu": 2, "pika": 2, "celery": 3}
    assert row.relay.errors == []


@pytest.mark.parametrize("host", FORK_THEN_CONNECT)
def test_a_worker_that_connects_itself_needs_nothing(rows: Any, host: str) -> None:
    row = row_of(rows, host, True)
    assert row.first == dict.fromkeys(LIBRARIES)
    assert row.inherited == dict.fromkeys(LIBRARIES, 2)
    assert row.relay.errors == []


@pytest.mark.parametrize("host", CONNECT_THEN_FORK)
def test_without_hbshim_a_worker_writes_into_its_masters_streams(rows: Any, host: str) -> None:
    row = row_of(rows, host, False)
    assert row.first == dict.fromkeys(LIBRARIES), "the control refused by itself"
    assert row.inherited == dict.fromkeys(LIBRARIES, 2)
    assert row.opened == len(LIBRARIES)


@pytest.mark.parametrize("shim", [True, False])
def test_celerys_prefork_pool_leaves_its_parents_pool_alone(broker: Broker, shim: bool) -> None:
    """With and without hbshim: Celery itself lets go of its pools after a fork."""
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(kombu.Connection(broker.amqp_url()))
        starting = Rows(broker, stack, own.channel())
        mark = f"{os.getpid()}-{next(_numbers)}"
        queue, sink = starting.declare(f"prefork-{mark}"), starting.declare(f"sink-{mark}")
        relay, url = starting.relay()
        variables = {
            "URL": url,
            "BROKER_HEARTBEAT": str(T),
            "QUEUE": queue,
            "SINK": sink,
            "SHIM": "celery app" if shim else "",
            "PUBLISH": "at import",
            "PYTHONWARNINGS": "ignore",
        }
        worker = [sys.executable, "-m", "celery", "-A", CELERY_APP, "worker", "-P", "prefork"]
        worker += ["-c", "1", "-n", f"{queue}@test", "-l", "info"]
        worker += ["--without-mingle", "--without-gossip"]
        host = stack.enter_context(hosted(*worker, variables=variables))
        host.wait_until_said("ready.")
        stream = Stream(relay, 1)
        before = stream.after_next_heartbeat() if shim else None
        caller = celery.Celery("caller", broker=broker.amqp_url(), set_as_current=False)
        stack.callback(caller.close)
        opened = len(relay.seen("opened"))
        caller.send_task(
            f"{CELERY_APP}.pass_on", ("child",), queue=kombu.Queue(queue, no_declare=True)
        )

        def arrived() -> int:
            return int(starting.channel.queue_declare(sink, passive=True).message_count)

        wait_until(lambda: arrived() == 2, 30)
        assert len(relay.seen("opened")) > opened, "the child used its parent's connection"
        if before is not None:
            stream.check_only_heartbeats_since(before)
        assert relay.errors == []
