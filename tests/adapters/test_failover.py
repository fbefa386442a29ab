"""Celery and kombu with several brokers, of which one hangs: they fail over as without hbshim.

Each relay is a broker: deaf, it accepts TCP connections and sends nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import celery
import kombu
import pytest
from kombu.pools import ProducerPool

import hbshim
from hbshim.heartbeat.link import Link
from tests.concurrency import MODEL
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay

pytestmark = pytest.mark.skipif(
    MODEL != "native", reason="the relay's event loop does not run in a patched process"
)

T = 1
CONNECT_TIMEOUT = 1.0
#: As Celery's own, but in less time.
POLICY = {"max_retries": 3, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1}


@pytest.fixture
def relays(broker: Broker) -> Iterator[list[Relay]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Relay(broker.host, broker.amqp_port)) for _ in range(3)]


def url_of(broker: Broker, relay: Relay) -> str:
    return f"amqp://{broker.user}:{broker.password}@{relay.host}:{relay.port}//"


@pytest.fixture
def publisher(
    broker: Broker,
) -> Iterator[
    Callable[
        [
            Callable[[str], tuple[Callable[..., None], Callable[[], Link], Callable[..., Any]]],
            list[Relay],
        ],
        tuple[Callable[..., None], Callable[[], Link]],
    ]
]:
    """Make what publishes over several brokers; the functions publish, and answer the link."""
    made = []

    def make(
        kind: Callable[[str], tuple[Callable[..., None], Callable[[], Link], Callable[..., Any]]],
        relays: list[Relay],
    ) -> tuple[Callable[..., None], Callable[[], Link]]:
        urls = ";".join(url_of(broker, relay) for relay in relays)
        publish, link, close = kind(urls)
        made.append(close)
        return publish, link

    yield make
    for close in made:
        close()


def over_celery(urls: str) -> tuple[Callable[..., None], Callable[[], Link], Callable[..., Any]]:
    app = celery.Celery("failover", set_as_current=False)
    app.conf.update(
        broker_url=urls,
        broker_heartbeat=T,
        broker_connection_timeout=CONNECT_TIMEOUT,
        broker_transport_options={"client_properties": {"connection_name": "failover"}},
        task_publish_retry_policy=POLICY,
        task_ignore_result=True,
    )
    hbshim.install(app)

    def publish(retry: bool = True) -> None:
        app.send_task("nothing", queue="failover", retry=retry)

    def link() -> Link:
        with app.pool.acquire(block=True) as connection:
            return connection.connection._transport.hbshim_link

    return publish, link, app.close


def over_kombu(urls: str) -> tuple[Callable[..., None], Callable[[], Link], Callable[..., Any]]:
    hbshim.install()
    connection = kombu.Connection(urls, heartbeat=T, connect_timeout=CONNECT_TIMEOUT)
    pool = connection.Pool(1)
    producers = ProducerPool(pool, 1)

    def publish(retry: bool = True) -> None:
        with producers.acquire(block=True) as producer:
            producer.publish("", routing_key="failover", retry=retry, retry_policy=POLICY)

    def link() -> Link:
        with pool.acquire(block=True) as pooled:
            return pooled.connection._transport.hbshim_link

    return publish, link, pool.force_close_all


KINDS = pytest.mark.parametrize("kind", [over_celery, over_kombu], ids=["celery", "kombu"])


def hang(relay: Relay) -> None:
    """Lose the connections of a broker, which accepts new ones and sends nothing."""
    relay.deaf(swallow=True)
    relay.reset()


@KINDS
@pytest.mark.parametrize("retry", [True, False])
def test_a_lost_connection_goes_to_the_next_broker_while_the_first_hangs(
    publisher: Callable[
        [
            Callable[[str], tuple[Callable[..., None], Callable[[], Link], Callable[..., Any]]],
            list[Relay],
        ],
        tuple[Callable[..., None], Callable[[], Link]],
    ],
    relays: list[Relay],
    kind: Callable[[str], tuple[Callable[..., None], Callable[[], Link], Callable[..., Any]]],
    retry: bool,
) -> None:
    publish, link = publisher(kind, relays[:2])
    publish()
    lost = link()
    hang(relays[0])
    wait_until(lambda: lost.state.value != "alive")
    for _ in range(3):
        publish(retry)
    assert len(relays[1].seen("opened")) == 1
    assert len(relays[0].seen("opened")) == 1, "the broker that hangs was tried again"


@KINDS
def test_a_silent_connection_goes_to_the_next_broker(
    publisher: Callable[
        [
            Callable[[str], tuple[Callable[..., None], Callable[[], Link], Callable[..., Any]]],
            list[Relay],
        ],
        tuple[Callable[..., None], Callable[[], Link]],
    ],
    relays: list[Relay],
    kind: Callable[[str], tuple[Callable[..., None], Callable[[], Link], Callable[..., Any]]],
) -> None:
    publish, link = publisher(kind, relays[:2])
    publish()
    lost = link()
    relays[0].deaf(swallow=True)
    wait_until(lambda: lost.state.value == "lost")
    publish()
    assert len(relays[1].seen("opened")) == 1


@KINDS
def test_two_of_three_brokers_may_hang(
    publisher: Callable[
        [
            Callable[[str], tuple[Callable[..., None], Callable[[], Link], Callable[..., Any]]],
            list[Relay],
        ],
        tuple[Callable[..., None], Callable[[], Link]],
    ],
    relays: list[Relay],
    kind: Callable[[str], tuple[Callable[..., None], Callable[[], Link], Callable[..., Any]]],
) -> None:
    publish, link = publisher(kind, relays)
    publish()
    lost = link()
    relays[1].deaf(swallow=True)
    hang(relays[0])
    wait_until(lambda: lost.state.value != "alive")
    publish()
    assert len(relays[2].seen("opened")) == 1


@KINDS
def test_an_outage_of_all_is_waited_out_by_the_librarys_own_policy(
    publisher: Callable[
        [
            Callable[[str], tuple[Callable[..., None], Callable[[], Link], Callable[..., Any]]],
            list[Relay],
        ],
        tuple[Callable[..., None], Callable[[], Link]],
    ],
    relays: list[Relay],
    kind: Callable[[str], tuple[Callable[..., None], Callable[[], Link], Callable[..., Any]]],
) -> None:
    publish, link = publisher(kind, relays[:2])
    publish()
    lost = link()
    for relay in relays[:2]:
        hang(relay)
    wait_until(lambda: lost.state.value != "alive")
    started = time.monotonic()
    with pytest.raises(kombu.exceptions.OperationalError):
        publish()
    # One attempt of hbshim's, then those of the policy: without them it would be over.
    assert time.monotonic() - started > 3 * CONNECT_TIMEOUT
    for relay in relays[:2]:
        relay.resume()
    publish()


@KINDS
def test_a_single_broker_that_comes_back_in_time_is_waited_for(
    publisher: Callable[
        [
            Callable[[str], tuple[Callable[..., None], Callable[[], Link], Callable[..., Any]]],
            list[Relay],
        ],
        tuple[Callable[..., None], Callable[[], Link]],
    ],
    relays: list[Relay],
    kind: Callable[[str], tuple[Callable[..., None], Callable[[], Link], Callable[..., Any]]],
) -> None:
    publish, link = publisher(kind, relays[:1])
    publish()
    lost = link()
    relays[0].refuse()
    relays[0].reset()
    wait_until(lambda: lost.state.value != "alive")
    with pytest.raises((kombu.exceptions.OperationalError, OSError)):
        publish()
    relays[0].accept()
    publish()
    publish(False)
