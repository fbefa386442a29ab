"""Every host, with hbshim and without, through one silence of more than 4 T.

Real servers, real connections to the real broker; mod_wsgi's are cells of the
regression. Started together, so that they are silent together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import kombu
import pytest

from tests.runtime.hosting import (
    CURRENT_UWSGI,
    THREADS_OPTIONAL_UWSGI,
    UWSGI_SOCKET,
    Host,
    hosted,
    uwsgi_program,
)
from tests.waiting import wait_until
from wsgi_harness.observe import observer
from wsgi_harness.observe.observation import BrokerView
from wsgi_harness.observe.observer import BrokerWatch
from wsgi_harness.stack.broker import Broker

# A fleet of processes on two cores.
pytestmark = pytest.mark.alone

T = 2
#: More than 4 T; RabbitMQ needs up to 3 T to close what is not kept alive.
SILENCE = 4.5 * T
LIBRARIES = ("kombu", "pika")
APP = "tests.system.host_app"
_numbers = itertools.count(1)


def gunicorn(worker_class: str, *options: str) -> list[str | Path]:
    # Its own watchdog kills a worker that a busy machine starves.
    server = [sys.executable, "-m", "gunicorn", "--bind", "unix:{socket}", "--timeout", "300"]
    return [*server, "--workers", "1", "--worker-class", worker_class, *options, APP]


def uwsgi(version: str, *options: str) -> list[str | Path]:
    server: list[str | Path] = [uwsgi_program(version), "--home", sys.prefix, *UWSGI_SOCKET]
    return [*server, "--need-app", "--module", APP, *options]


#: Each host's command. Called late: uWSGI may have to be built, or cannot be.
HOSTS: dict[str, Callable[[], list[str | Path]]] = {
    "plain": lambda: [sys.executable, "-m", APP, "{socket}"],
    "gunicorn-sync": lambda: gunicorn("sync"),
    "gunicorn-gthread": lambda: gunicorn("gthread", "--threads", "3"),
    "gunicorn-gevent": lambda: gunicorn("gevent"),
    "uwsgi": lambda: uwsgi(CURRENT_UWSGI),
    "uwsgi-master": lambda: uwsgi(CURRENT_UWSGI, "--master", "--enable-threads"),
    "uwsgi-with-threads": lambda: uwsgi(THREADS_OPTIONAL_UWSGI, "--enable-threads"),
    "uwsgi-without-threads": lambda: uwsgi(THREADS_OPTIONAL_UWSGI),
}
#: No Python thread runs there between two requests.
HELPLESS = {"uwsgi-without-threads"}


@dataclasses.dataclass
class Row:
    """One host with hbshim, or without, and what became of it.

    Attributes:
        names: by library, of its connection at the broker, and of its queue.
        views: the broker's own view of each connection.
        said: each library's error at the second request, or None.
        arrived: messages in each library's queue.
        events: kind and detail of what hbshim recorded.
    """

    host: Host
    names: dict[str, str]
    views: dict[str, BrokerView] = dataclasses.field(default_factory=dict)
    said: dict[str, str | None] = dataclasses.field(default_factory=dict)
    arrived: dict[str, int] = dataclasses.field(default_factory=dict)
    events: list[tuple[str, str]] = dataclasses.field(default_factory=list)


def start(broker: Broker, command: list[str | Path], shim: bool, stack: Any) -> Row:
    mark = f"host-{os.getpid()}-{next(_numbers)}"
    names = {library: f"{library}-{mark}" for library in LIBRARIES}
    config = {
        "shim": shim,
        "url": broker.amqp_url(),
        "heartbeat": T,
        "names": names,
    }
    host = stack.enter_context(hosted(*command, variables={"HOST_ORDERS": json.dumps(config)}))
    return Row(host, names)


@pytest.fixture(scope="module")
def rows(broker: Broker) -> Iterator[dict[tuple[str, bool], Row | str]]:
    """Every host after its silence and second request, or why there is none."""
    found: dict[tuple[str, bool], Row | str] = {}
    with contextlib.ExitStack() as stack:
        channel = stack.enter_context(kombu.Connection(broker.amqp_url())).channel()
        for name, command in HOSTS.items():
            for shim in (True, False):
                try:
                    found[name, shim] = start(broker, command(), shim, stack)
                except pytest.skip.Exception as missing:
                    found[name, shim] = str(missing)
        running = [row for row in found.values() if isinstance(row, Row)]
        for row in running:
            for queue in row.names.values():
                channel.queue_declare(
                    queue, durable=True, auto_delete=False, arguments={"x-expires": 300_000}
                )
            row.host.wait_until_serving()
        keep_silent(broker, running)
        for row in running:
            row.said = row.host.get("/publish")["answer"]
            row.events = row.host.get("/report")["answer"].get("events", [])
        kept = [
            row
            for (name, shim), row in found.items()
            if shim and name not in HELPLESS and isinstance(row, Row)
        ]
        count_messages(channel, kept, 30.0)
        # What is lost never comes; as long as a message may take from a socket to its queue.
        count_messages(channel, running, 2.0)
        yield found


def keep_silent(broker: Broker, rows: list[Row]) -> None:
    """All open, no request for more than 4 T, then the broker lists the open ones."""
    with BrokerWatch(broker.management.connections) as watch:
        # At once: a control that opens first would be gone when the last one opens.
        with ThreadPoolExecutor(len(rows)) as openers:
            list(openers.map(lambda row: row.host.get("/open"), rows))
        end = time.monotonic() + SILENCE
        wait_until(lambda: time.monotonic() > end, SILENCE + 5)
        listed = watch.listed_now()
        log = observer.read_log(observer.without_colour(broker.log()))
        for row in rows:
            for library, name in row.names.items():
                view = watch.add_to(log.get(name, BrokerView()), name)
                row.views[library] = dataclasses.replace(view, listed_after_silence=name in listed)


def count_messages(channel: Any, rows: list[Row], limit: float) -> None:
    """Note what is in the queues, once each holds a message or `limit` seconds are over."""

    def count() -> bool:
        for row in rows:
            row.arrived = {
                library: channel.queue_declare(queue, passive=True).message_count
                for library, queue in row.names.items()
            }
        return all(all(row.arrived.values()) for row in rows)

    with contextlib.suppress(AssertionError):
        wait_until(count, limit)


def row_of(rows: dict[tuple[str, bool], Row | str], host: str, shim: bool) -> Row:
    row = rows[host, shim]
    if isinstance(row, str):
        pytest.skip(row)
    return row


@pytest.mark.parametrize("host", [name for name in HOSTS if name not in HELPLESS])
def test_with_hbshim_the_connections_live(rows: Any, host: str) -> None:
    row = row_of(rows, host, True)
    for library in LIBRARIES:
        assert row.views[library].heartbeat == T
        assert row.views[library].listed_after_silence, row.views[library].reason
    assert row.said == dict.fromkeys(LIBRARIES)
    assert row.arrived == dict.fromkeys(LIBRARIES, 1)
    assert "choice-warning" not in dict(row.events)


@pytest.mark.parametrize("host", HOSTS)
def test_without_hbshim_they_die(rows: Any, host: str) -> None:
    row = row_of(rows, host, False)
    for library in LIBRARIES:
        assert row.views[library].heartbeat == T
        assert not row.views[library].listed_after_silence, "the control survived"
        assert row.views[library].missed_heartbeats
    assert row.arrived == dict.fromkeys(LIBRARIES, 0)


def test_where_no_thread_runs_hbshim_names_the_flag(rows: Any) -> None:
    row = row_of(rows, "uwsgi-without-threads", True)
    for library in LIBRARIES:
        assert row.views[library].missed_heartbeats, "uWSGI ran a thread without --enable-threads"
    assert "--enable-threads" in dict(row.events)["choice-warning"]
    # No heartbeat could be sent, but the dead connection is known before a message is lost on it.
    assert all(row.said.values()), row.said
