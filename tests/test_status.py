"""Status, events and Prometheus agree about a real connection."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pika
import pytest

import hbshim
from hbshim.errors import MissingExtraError
from hbshim.observe.snapshot import LinkStatus
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker


@pytest.fixture
def connection(broker: Broker) -> Iterator[pika.BlockingConnection]:
    connection = pika.BlockingConnection(pika.URLParameters(broker.amqp_url(heartbeat=1)))
    hbshim.keep_alive(connection)
    yield connection
    connection.close()


def own_link(connection: pika.BlockingConnection) -> LinkStatus:
    name = connection._impl._heartbeat_checker._link.name
    return next(link for link in hbshim.status().links if link.name == name)


def test_status_shows_the_link_and_the_age_of_the_applications_own_traffic(
    connection: pika.BlockingConnection,
) -> None:
    wait_until(lambda: own_link(connection).heartbeats_sent >= 3)
    # More heartbeats are sent meanwhile; they do not make the application look busy.
    wait_until(lambda: own_link(connection).last_write_ago > 1)
    link = own_link(connection)
    assert link.state == "alive"
    assert link.heartbeat_timeout == 1.0
    assert link.route == "plain"
    wrote = time.monotonic()
    connection.channel()
    assert own_link(connection).last_write_ago <= time.monotonic() - wrote


def test_events_are_handed_out_once(connection: pika.BlockingConnection) -> None:
    hbshim.take_events()
    link = connection._impl._heartbeat_checker._link
    link.guard.writers.overlaps += 1
    wait_until(lambda: "event:concurrent-writers" in hbshim.status().counters)
    assert [event.kind for event in hbshim.take_events()] == ["concurrent-writers"]
    assert hbshim.take_events() == []


def test_prometheus_scrapes_what_status_shows(connection: pika.BlockingConnection) -> None:
    from prometheus_client import CollectorRegistry, generate_latest

    from hbshim.prometheus import register

    registry = CollectorRegistry()
    register(registry)
    wait_until(lambda: own_link(connection).heartbeats_sent >= 2)
    text = generate_latest(registry).decode()
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(samples["hbshim_heartbeats_sent_total"]) >= 2
    workers = [key for key in samples if key.startswith("hbshim_links{")]
    assert sum(float(samples[key]) for key in workers) >= 1
    assert float(samples["hbshim_oldest_application_write_seconds"]) > 0


def test_without_prometheus_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "hbshim.prometheus", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'hbshim\[prometheus\]'"):
        import hbshim.prometheus  # noqa: F401
