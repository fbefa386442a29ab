"""What a driver reports of itself: in the status, at the watch socket, and as metrics."""

from __future__ import annotations

import gc
import io
import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest
from rich.console import Console

import hbshim
import hbshim.otel
import hbshim.prometheus
from hbshim import messaging
from hbshim.errors import WatchError
from hbshim.messaging import Client, NotificationServer, Notifier, Server, Target
from hbshim.messaging.zmq.subscriber import Subscriber
from hbshim.observe import drivers, listening
from hbshim.observe.answer import parse
from hbshim.observe.drivers import ZmqStatus
from hbshim.observe.drivers_table import size
from hbshim.observe.table import render
from tests.interrupts import collect_everywhere
from tests.messaging.endpoints import Endpoint
from tests.messaging.zmq.nodes import LIMIT, InBackground, Node
from tests.waiting import wait_until

TARGET = Target("compute")

NONE = {"call": 0, "cast": 0, "fanout": 0, "notify": 0}


class Sink:
    """Takes notifications."""

    def __init__(self) -> None:
        self.taken: list[object] = []

    def info(self, notification: messaging.Notification) -> None:
        self.taken.append(notification.payload)


@pytest.fixture
def node(nodes: Callable[[], Node]) -> Node:
    made = nodes()
    made.start(whole=True)
    return made


def statuses(node: Node) -> list[ZmqStatus]:
    """Those of the drivers of one host."""
    return [each for each in hbshim.status().zmq if each.name == f"{node.address}:9501"]


def test_it_counts_what_is_sent_and_received_by_pattern(
    node: Node, serve: Callable[..., Server], endpoint: Endpoint
) -> None:
    server, client = node.driver(), node.driver()
    assert statuses(node) == []  # neither was used
    serve(server, TARGET, endpoint)
    sink = Sink()
    with NotificationServer(server, ["events"], [sink]):
        compute = Client(client, TARGET, timeout=LIMIT)
        for number in range(3):
            compute.call("echo", value=number)
        compute.cast("echo", value="cast")
        compute.prepare(fanout=True).cast("echo", value="fanout")
        Notifier(client, "events", "test").info("happened", "notification")
        wait_until(lambda: len(endpoint.asked) == 5 and sink.taken, LIMIT)
        of_server, of_client = statuses(node)
    assert of_server.received == {"call": 3, "cast": 1, "fanout": 1, "notify": 1}
    assert of_server.sent == NONE
    assert of_server.listeners == 2
    assert of_client.sent == {"call": 3, "cast": 1, "fanout": 1, "notify": 1}
    assert of_client.received == NONE
    assert of_client.hosts == {"call": 1, "cast": 0, "fanout": 1, "notify": 1}
    assert (of_client.listeners, of_client.calls_waiting) == (0, 0)
    for each in (of_server, of_client):
        assert (each.dropped, each.expired, each.gaps, each.outbox_bytes) == (0, 0, 0, 0)
        assert 0 <= each.io_idle < 5
    now = hbshim.status()
    assert now["zmq"] == now.as_dict()["zmq"]
    assert json.loads(json.dumps(now["zmq"]))[0]["sent"].keys() == NONE.keys()


def test_calls_that_wait_and_casts_that_come_too_late(
    node: Node, serve: Callable[..., Server], endpoint: Endpoint
) -> None:
    serve(node.driver(), TARGET, endpoint, workers=1, prefetch=10)
    client = Client(node.driver(), TARGET, timeout=LIMIT)
    held = InBackground(lambda: client.call("hold"))
    wait_until(lambda: endpoint.asked, LIMIT)
    of_server, of_client = statuses(node)
    assert (of_server.calls_waiting, of_client.calls_waiting) == (0, 1)
    client.prepare(timeout=1).cast("echo", value="late")
    wait_until(lambda: statuses(node)[0].received["cast"] == 1, LIMIT)
    # A server counts a message's time from its arrival, a little later than its caller does: the
    # second call makes the first one late there too.
    for timeout in (1, 3):
        with pytest.raises(hbshim.errors.CallTimeoutError):
            client.prepare(timeout=timeout).call("echo", value="late")
    endpoint.release.set()
    assert held.join() is None
    wait_until(lambda: statuses(node)[0].expired >= 2, LIMIT)


def test_publications_that_wait_have_bytes_until_they_are_handled(
    node: Node, serve: Callable[..., Server], endpoint: Endpoint
) -> None:
    server = serve(node.driver(), TARGET, endpoint)
    server.pause()
    client = Client(node.driver(), TARGET.to(fanout=True), timeout=LIMIT)
    client.cast("echo", value="x" * 10_000)
    wait_until(lambda: statuses(node)[0].inbox_bytes > 10_000, LIMIT)
    server.resume()
    wait_until(lambda: statuses(node)[0].inbox_bytes == 0, LIMIT)


def test_a_driver_that_is_closed_or_gone_is_left_out(node: Node) -> None:
    driver = node.driver()
    client = Client(driver, TARGET)
    with pytest.raises(hbshim.errors.CallTimeoutError):
        client.prepare(timeout=0.1).call("echo", value=1)
    assert len(statuses(node)) == 1
    driver.close()
    assert statuses(node) == []
    key = id(driver)
    assert key in drivers._drivers
    node._drivers.remove(driver)
    del driver, client
    wait_until(lambda: gc.collect() >= 0 and key not in drivers._drivers, LIMIT)


def test_a_forked_child_reports_only_what_it_uses(
    node: Node, serve: Callable[..., Server], endpoint: Endpoint
) -> None:
    serve(node.driver(), TARGET, endpoint)
    Client(node.driver(), TARGET, timeout=LIMIT).call("echo", value=1)
    assert len(statuses(node)) == 2
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(writing, b"%d" % len(statuses(node)))
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reading, 10) == b"0"
    for end in (reading, writing):
        os.close(end)


def test_prometheus_and_opentelemetry_have_the_same_figures(
    node: Node, serve: Callable[..., Server], endpoint: Endpoint
) -> None:
    serve(node.driver(), TARGET, endpoint)
    Client(node.driver(), TARGET, timeout=LIMIT).call("echo", value=1)
    registry, reader = CollectorRegistry(), InMemoryMetricReader()
    hbshim.prometheus.register(registry)
    provider = MeterProvider([reader], shutdown_on_exit=False)
    hbshim.otel.register(provider)
    labels = {"driver": f"{node.address}:9501"}
    (resource,) = reader.get_metrics_data().resource_metrics
    points: dict[tuple[str, frozenset[Any]], Any] = {
        (metric.name, frozenset((point.attributes or {}).items())): point.value
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
        if hasattr(point, "value")
    }
    provider.shutdown()
    expected: list[tuple[str, str, dict[str, str], float]] = [
        ("zmq_messages_sent_total", "zmq_messages_sent", {"pattern": "call"}, 1),
        ("zmq_messages_received_total", "zmq_messages_received", {"pattern": "call"}, 1),
        ("zmq_messages_lost_total", "zmq_messages_lost", {"reason": "expired"}, 0),
        ("zmq_hosts", "zmq_hosts", {"pattern": "call"}, 1),
        ("zmq_calls_waiting", "zmq_calls_waiting", {}, 0),
        ("zmq_listeners", "zmq_listeners", {}, 1),
        ("zmq_outbox_bytes", "zmq_outbox_bytes", {}, 0),
        ("zmq_inbox_bytes", "zmq_inbox_bytes", {}, 0),
    ]
    for prometheus, otel, more, value in expected:
        # Both drivers have the same hosts, so they are added up.
        assert registry.get_sample_value(f"hbshim_{prometheus}", {**labels, **more}) == value
        assert points[f"hbshim.{otel}", frozenset({**labels, **more}.items())] == value
    assert "hbshim_zmq_io_idle_seconds" in generate_latest(registry).decode()


def test_the_watch_socket_shows_a_table_of_drivers(
    node: Node, serve: Callable[..., Server], endpoint: Endpoint
) -> None:
    serve(node.driver(), TARGET, endpoint)
    Client(node.driver(), TARGET, timeout=LIMIT).call("echo", value=1)
    seen = parse(listening.answer())
    assert [each.received["call"] for each in seen.zmq if each.name.startswith(node.address)] == [
        1,
        0,
    ]
    narrow, wide = (shown(seen, width) for width in (80, 140))
    assert any(line.startswith("hbzmq driver") and line.endswith("I/O") for line in narrow)
    (row, _) = [line.split() for line in narrow if line.startswith(node.address)]
    assert row[:6] == [f"{node.address}:9501", "0", "0", "0", "1", "0"]
    (row, _) = [line.split() for line in wide if line.startswith(node.address)]
    assert row[3:7] == ["0/1", "0/0", "0/0", "0/0"]


def shown(seen: Any, width: int, height: int | None = None) -> list[str]:
    out = io.StringIO()
    Console(width=width, file=out).print(render([seen], width, height))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def document(**changes: Any) -> bytes:
    """An answer with one driver."""
    driver = {
        "name": "host:9501",
        "hosts": NONE,
        "calls_waiting": 3,
        "listeners": 1,
        "sent": NONE,
        "received": NONE,
        "dropped": 1,
        "expired": 2,
        "gaps": 4,
        "outbox_bytes": 2048,
        "inbox_bytes": 5 * 1024**2,
        "io_idle": 9.5,
    }
    answered = {**json.loads(listening.answer()), "zmq": [{**driver, **changes}]}
    return json.dumps(answered).encode()


def test_what_is_lost_and_what_waits_is_shown() -> None:
    (row,) = [line.split() for line in shown(parse(document()), 80) if line.startswith("host:")]
    assert row[-3:] == ["7", "5.0M", "9.5s"]
    (row,) = [line.split() for line in shown(parse(document()), 140) if line.startswith("host:")]
    assert row[-6:] == ["1", "2", "4", "2.0K", "5.0M", "9.5s"]


def test_many_drivers_and_long_names_fit() -> None:
    answered = json.loads(document(name="host-with-a-long-name." * 20))
    answered["zmq"] *= 30
    lines = shown(parse(json.dumps(answered).encode()), 80, 24)
    assert all(len(line) <= 80 for line in lines)
    assert len(lines) <= 24
    assert "… and 20 more drivers" in lines


@pytest.mark.parametrize(
    "changes", [{"sent": {"call": 1}}, {"sent": []}, {"io_idle": "soon"}, {"hosts": None}]
)
def test_an_answer_that_is_none_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(WatchError):
        parse(document(**changes))


def test_a_process_of_an_earlier_version_has_no_drivers() -> None:
    answered = json.loads(document())
    del answered["zmq"]
    assert parse(json.dumps(answered).encode()).zmq == ()


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0B"), (999, "999B"), (3500, "3.4K"), (52 * 1024**2, "52M")]
)
def test_sizes_are_short(count: int, text: str) -> None:
    assert size(count) == text


def test_a_publication_is_handled_while_those_that_wait_are_counted() -> None:
    unused: Any = None
    subscriber = Subscriber(unused, unused, "", [b"key/"], bytes(16), 1000, unused, unused)
    subscriber._size = 1_000_000
    subscriber._settled.extend([1] * 30)
    assert collect_everywhere(lambda: subscriber.size, lambda: subscriber._settled.append(1))
