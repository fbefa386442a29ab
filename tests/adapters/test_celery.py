"""A Celery app on the real broker: what it negotiates, and what its pools hand out.

Where a test has a control, that is a second app beside the first, which connected
before hbshim was installed: it does what a program without hbshim does.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import celery
import kombu
import pytest

import hbshim
from hbshim.adapters.celery.apps import apps_in_use
from hbshim.errors import AttachError, UnsupportedVersionError
from hbshim.heartbeat.service import current
from tests.concurrency import MODEL
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay

PAGE = Path(__file__).parent.parent.parent / "docs" / "hosts.md"

T = 1
_numbers = itertools.count(1)


@pytest.fixture
def relay(broker: Broker) -> Iterator[Relay]:
    if MODEL != "native":
        pytest.skip("the relay's event loop does not run in a patched process")
    with Relay(broker.host, broker.amqp_port) as relay:
        yield relay


@pytest.fixture
def queue(broker: Broker) -> Iterator[Callable[[], int]]:
    """A queue that outlives the connections; answers how many messages it holds."""
    name = f"hbshim-celery-pools-{os.getpid()}-{next(_numbers)}"
    with kombu.Connection(broker.amqp_url()) as own:
        channel = own.channel()
        channel.queue_declare(
            name, durable=True, auto_delete=False, arguments={"x-expires": 60_000}
        )

        def count() -> int:
            return channel.queue_declare(name, passive=True).message_count

        count.name = name  # type: ignore[attr-defined]
        yield count


@pytest.fixture
def make_app(broker: Broker, queue: Any) -> Iterator[Callable[..., celery.Celery]]:
    made = []

    def make(relay: Relay | None = None, heartbeat: int = T) -> celery.Celery:
        through = broker if relay is None else dataclasses.replace(broker, amqp_port=relay.port)
        app = celery.Celery(
            f"app-{next(_numbers)}", broker=through.amqp_url(), set_as_current=False
        )
        app.conf.broker_heartbeat = heartbeat
        app.conf.task_default_queue = queue.name
        app.conf.task_queues = [kombu.Queue(queue.name, no_declare=True)]
        made.append(app)
        return app

    yield make
    for app in made:
        app.close()
    kombu.pools.reset()


@pytest.fixture
def control(make_app: Callable[..., celery.Celery]) -> celery.Celery:
    """An app that has published once, without hbshim."""
    app = make_app()
    send(app)
    return app


def send(app: celery.Celery, **options: Any) -> None:
    app.send_task("has.no.worker", ignore_result=True, **options)


def pooled(app: celery.Celery) -> Any:
    """The connection that the app's next publish will use."""
    with app.pool.acquire() as connection:
        return connection.connection


def ends(relay: Relay) -> list[Any]:
    return [*relay.seen("fin"), *relay.seen("rst")]


def link_of(app: celery.Celery) -> Any:
    return getattr(pooled(app).transport, "hbshim_link", None)


def test_a_pool_asks_for_a_heartbeat_and_it_is_sent(
    make_app: Callable[..., celery.Celery], control: celery.Celery
) -> None:
    app = make_app()
    hbshim.install(app)
    send(app)
    assert not pooled(control).heartbeat, "the control negotiated a heartbeat by itself"
    assert pooled(app).heartbeat == T
    wait_until(lambda: link_of(app).heartbeats_sent >= 6)
    assert link_of(control) is None


def test_a_heartbeat_that_celery_negotiates_is_sent(
    make_app: Callable[..., celery.Celery], relay: Relay
) -> None:
    """celery#4876: negotiated, but never sent; the broker hangs up."""
    app = make_app(relay)
    forgotten = app.connection_for_write(heartbeat=T)
    forgotten.connect()
    hbshim.install(app)
    kept = app.connection_for_write(heartbeat=T)
    kept.connect()
    # RabbitMQ closes between 2 and 3 T after the last byte.
    wait_until(lambda: ends(relay), 20)
    assert {event.connection for event in ends(relay)} == {1}
    kept.default_channel.queue_declare("", exclusive=True)
    for connection in (forgotten, kept):
        connection.release()


def test_an_idle_pool_behind_a_peer_that_goes_deaf(
    make_app: Callable[..., celery.Celery], relay: Relay, broker: Broker, queue: Callable[[], int]
) -> None:
    """celery#9187: what the control sends is accepted, and lost."""
    with Relay(broker.host, broker.amqp_port) as deaf_for_good:
        control = make_app(deaf_for_good)
        send(control)
        app = make_app(relay)
        hbshim.install(app)
        send(app)
        wait_until(lambda: queue() == 2)
        link = link_of(app)
        for relay_of_one in (relay, deaf_for_good):
            relay_of_one.deaf(swallow=True)
        wait_until(lambda: link.state.value == "lost")
        send(control, retry=False)
        relay.resume()
        # Without Celery's own retrying: the pool alone must have known.
        send(app, retry=False)
        wait_until(lambda: queue() == 3)
        assert link_of(app) is not link
        assert "dead-in-pool" in [event.kind for event in hbshim.take_events()]
    # The control's message did not come late either.
    assert queue() == 3


def test_an_idle_pool_whose_peer_hangs_up(
    make_app: Callable[..., celery.Celery], relay: Relay, queue: Callable[[], int]
) -> None:
    control = make_app(relay)
    send(control)
    app = make_app(relay)
    hbshim.install(app)
    send(app)
    wait_until(lambda: queue() == 2)
    relay.stop()
    relay.accept()
    relay.wait_for("closed", count=2)
    with pytest.raises((OSError, kombu.exceptions.OperationalError)):
        send(control, retry=False)
    for _ in range(3):
        send(app, retry=False)
    wait_until(lambda: queue() == 5)


def test_many_messages_through_pools_that_die_again_and_again(
    make_app: Callable[..., celery.Celery], relay: Relay, queue: Callable[[], int]
) -> None:
    app = make_app(relay)
    hbshim.install(app)
    for sent in range(4, 24, 4):
        for _ in range(4):
            send(app, retry=False)
        wait_until(lambda sent=sent: queue() == sent)  # type: ignore[misc]
        relay.stop()
        relay.accept()
    wait_until(lambda: queue() == 20)


def test_a_write_broken_off_leaves_the_pool(make_app: Callable[..., celery.Celery]) -> None:
    app = make_app()
    hbshim.install(app)
    link = link_of(app)
    link.guard.torn = True
    assert link_of(app) is not link


def test_a_pool_from_before_is_replaced(
    make_app: Callable[..., celery.Celery], control: celery.Celery
) -> None:
    before = pooled(control)
    hbshim.install(control)
    send(control)
    assert pooled(control) is not before
    assert link_of(control).timeout == T


def test_the_option_wins_over_broker_heartbeat(
    make_app: Callable[..., celery.Celery], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(heartbeat=120)
    hbshim.install(app, heartbeat=3)
    assert pooled(app).heartbeat == 3
    monkeypatch.setenv("HBSHIM_HEARTBEAT", "2")
    hbshim.install(app)
    with app.connection_for_write() as connection:
        connection.connect()
        assert connection.connection.heartbeat == 2


def test_options_in_the_brokers_url_are_kept(
    make_app: Callable[..., celery.Celery], broker: Broker
) -> None:
    app = make_app()
    app.conf.broker_url = broker.amqp_url(hbshim_heartbeat=3, heartbeat_in_pthread="true")
    hbshim.install(app)
    assert pooled(app).heartbeat == 3


def test_an_app_that_wants_no_heartbeat_gets_none(
    make_app: Callable[..., celery.Celery], events: Callable[..., Any]
) -> None:
    app = make_app(heartbeat=0)
    hbshim.install(app)
    send(app)
    assert not pooled(app).heartbeat
    assert "not-negotiated" in events()


def test_nothing_is_asked_once_uninstalled(make_app: Callable[..., celery.Celery]) -> None:
    app = make_app()
    hbshim.install(app)
    hbshim.uninstall()
    assert not pooled(app).heartbeat, "a heartbeat that nothing would send"


def test_an_app_may_be_configured_afterwards(
    make_app: Callable[..., celery.Celery], broker: Broker
) -> None:
    app = celery.Celery("late", set_as_current=False)
    hbshim.install(app)
    hbshim.install(app)
    app.config_from_object({"broker_url": broker.amqp_url(), "broker_heartbeat": 3})
    assert pooled(app).heartbeat == 3
    app.close()


def test_a_proxy_of_an_app_is_an_app(make_app: Callable[..., celery.Celery]) -> None:
    app = make_app()
    app.set_current()
    try:
        hbshim.install(celery.current_app)
    finally:
        celery._state._set_current_app(celery._state.default_app)
    assert pooled(app).heartbeat == T


def test_other_transports_are_left_alone() -> None:
    app = celery.Celery("elsewhere", broker="memory://", set_as_current=False)
    hbshim.install(app)
    assert app.connection_for_write().transport_options == {}
    send(app)
    app.close()


@pytest.mark.parametrize("foreign", [{"heartbeat": 60}, "app", celery.Celery, object()])
def test_a_foreign_object_gives_one_clear_error(foreign: Any) -> None:
    with pytest.raises(AttachError, match=r"takes a Celery app"):
        hbshim.install(foreign)
    assert hbshim.api.connection_options({}) is None, "installed in spite of the error"


def test_an_object_of_celerys_that_is_no_app(make_app: Callable[..., celery.Celery]) -> None:
    with pytest.raises(AttachError, match="name the app itself"):
        hbshim.install(make_app().control)


def test_an_unknown_celery_is_refused(
    make_app: Callable[..., celery.Celery], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(celery, "__version__", "6.0")
    with pytest.raises(UnsupportedVersionError, match=r"celery 6\.0"):
        hbshim.install(make_app())


def test_a_pool_that_is_in_use_pays_little(
    make_app: Callable[..., celery.Celery], queue: Callable[[], int]
) -> None:
    """Not a figure, an order: 200 publishes must not open 200 connections."""
    app = make_app()
    hbshim.install(app)
    before = current().metrics.snapshot().get("links_watched", 0)
    deadline = time.monotonic() + 30
    for _ in range(200):
        send(app, retry=False)
        assert time.monotonic() < deadline
    assert current().metrics.snapshot()["links_watched"] == before + 1
    wait_until(lambda: queue() == 200)


def test_the_documentations_snippet(broker: Broker) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(
        # The URL last: it may hold a 60, too.
        snippet.replace("60", "3").replace("amqp://user:password@broker//", broker.amqp_url()),
        names,
    )
    try:
        assert pooled(names["app"]).heartbeat == 3
        assert link_of(names["app"]).timeout == 3
    finally:
        names["app"].close()
        kombu.pools.reset()
        celery._state._set_current_app(celery._state.default_app)


class App:
    """One that is not configured."""

    configured = False


class Apps(weakref.WeakSet[Any]):
    """Another thread makes an app in the middle of the first iteration."""

    def __init__(self, made: list[App]) -> None:
        super().__init__(made)
        self._made = made

    def __iter__(self) -> Iterator[Any]:
        for each in super().__iter__():
            yield each
            if len(self._made) == 2:
                self._made.append(App())
                self.add(self._made[-1])


def test_an_app_is_made_while_they_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [App(), App()]
    monkeypatch.setattr("celery._state._apps", Apps(made))
    assert apps_in_use() == []
    assert len(made) == 3
