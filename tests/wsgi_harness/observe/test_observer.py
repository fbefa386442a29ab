# ruff: noqa: E501 (a recorded log has its own line lengths)
"""The broker's own view: parsed from recorded logs, and watched on a real broker."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pika
import pytest
import requests

from tests.waiting import wait_until
from wsgi_harness.observe import observer
from wsgi_harness.observe.observation import BrokerView
from wsgi_harness.observe.observer import BrokerUnobservableError, BrokerWatch, read_log
from wsgi_harness.stack.broker import Broker

HEARTBEAT = 2

# RabbitMQ 3.10.8, as `docker compose logs` hands it out.
LOG_3_10 = """\
\x1b[2K2026-11-20 06:44:29.531489+00:00 [info] <0.854.0> accepting AMQP connection <0.854.0> (172.26.0.10:41638 -> 172.26.0.3:5672)
\x1b[2K2026-11-20 06:44:29.569685+00:00 [info] <0.854.0> connection <0.854.0> (172.26.0.10:41638 -> 172.26.0.3:5672) has a client-provided name: none-pika
\x1b[2K2026-11-20 06:44:29.572910+00:00 [info] <0.854.0> connection <0.854.0> (172.26.0.10:41638 -> 172.26.0.3:5672 - none-pika): user 'hbshim' authenticated and granted access to vhost '/'
\x1b[2K2026-11-20 06:44:29.823097+00:00 [info] <0.906.0> connection <0.906.0> (172.26.0.10:41666 -> 172.26.0.3:5672) has a client-provided name: native-pika
\x1b[2K completed with 3 plugins.
\x1b[2K2026-11-20 06:44:41.575966+00:00 [error] <0.854.0> closing AMQP connection <0.854.0> (172.26.0.10:41638 -> 172.26.0.3:5672 - none-pika):
\x1b[2K2026-11-20 06:44:41.575966+00:00 [error] <0.854.0> missed heartbeats from client, timeout: 4s
\x1b[2K2026-11-20 06:44:53.952132+00:00 [info] <0.906.0> closing AMQP connection <0.906.0> (172.26.0.10:41666 -> 172.26.0.3:5672 - native-pika, vhost: '/', user: 'hbshim')
"""

# RabbitMQ 4.0.5, over AMQP 1.0.
LOG_AMQP1 = """\
2026-11-29 21:50:04.970000+00:00 [info] <0.901.0> accepting AMQP connection <0.901.0> (172.26.0.10:41638 -> 172.26.0.3:5672)
2026-11-29 21:50:04.978401+00:00 [info] <0.901.0> Connection from AMQP 1.0 container 'none-proton-amqp1': user 'hbshim' authenticated using SASL mechanism PLAIN and granted access to vhost '/'
2026-11-29 21:50:16.981392+00:00 [error] <0.901.0> Error on AMQP 1.0 connection <0.901.0> (running), channel number 0:
2026-11-29 21:50:16.981392+00:00 [error] <0.901.0> <<"no frame received from client within idle timeout threshold">>
2026-11-29 21:50:20.990000+00:00 [warning] <0.901.0> closing AMQP connection <0.901.0> (172.26.0.10:41638 -> 172.26.0.3:5672):
2026-11-29 21:50:20.990000+00:00 [warning] <0.901.0> client unexpectedly closed TCP connection
"""


def views(text: str) -> dict[str, BrokerView]:
    return dict(read_log(observer.without_colour(text)))


def test_a_connection_closed_for_missed_heartbeats_has_its_time_and_reason() -> None:
    view = views(LOG_3_10)["none-pika"]

    assert view.closed is not None
    assert view.opened is not None
    assert view.closed - view.opened == pytest.approx(12.006281)
    assert view.reason == "missed heartbeats from client, timeout: 4s"
    assert view.missed_heartbeats


def test_a_connection_closed_by_its_client_has_no_reason() -> None:
    view = views(LOG_3_10)["native-pika"]

    assert view.closed is not None
    assert view.reason == ""
    assert not view.missed_heartbeats


def test_a_connection_over_amqp_1_0_is_named_after_its_container() -> None:
    view = views(LOG_AMQP1)["none-proton-amqp1"]

    assert view.opened is not None
    assert view.closed is not None
    # Not the end of the stream, which follows.
    assert view.closed - view.opened == pytest.approx(12.002991)
    assert view.reason == "no frame received from client within idle timeout threshold"
    assert view.missed_heartbeats


def test_connections_without_a_name_are_left_out() -> None:
    assert set(views(LOG_3_10)) == {"none-pika", "native-pika"}


@pytest.mark.parametrize("second", ["none-pika", "none-pika:77:hbshim-pika"])
def test_several_connections_of_a_name_have_the_story_of_the_first_that_was_closed(
    second: str,
) -> None:
    again = LOG_3_10.replace("native-pika", second)

    view = views(again)["none-pika"]

    assert view.connections == 2
    assert view.missed_heartbeats
    first, other = view.lives
    assert (view.opened, view.closed) == (first.opened, first.closed)
    assert other.closed is not None
    assert view.closed is not None
    assert other.closed > view.closed


@pytest.fixture(scope="module")
def silent(broker: Broker) -> Iterator[str]:
    """Return the name of a connection without heartbeats."""
    name = f"observed-{time.monotonic_ns()}"
    parameters = pika.URLParameters(broker.amqp_url(heartbeat=HEARTBEAT))
    parameters.client_properties = {"connection_name": name}
    connection = pika.BlockingConnection(parameters)
    yield name
    with pytest.raises(pika.exceptions.AMQPError):
        connection.process_data_events(time_limit=1)


def test_both_views_of_a_real_broker_report_the_same_death(broker: Broker, silent: str) -> None:
    with BrokerWatch(broker.management.connections) as watch:
        wait_until(lambda: silent in watch.listed_now(), timeout=15)
        wait_until(lambda: silent not in watch.listed_now(), timeout=10 * HEARTBEAT)
        view = watch.add_to(views(broker.log())[silent], silent)

    assert view.heartbeat == HEARTBEAT
    assert view.reason == f"missed heartbeats from client, timeout: {HEARTBEAT}s"
    assert view.opened is not None
    assert view.closed is not None
    assert view.listed_until is not None
    # The management API is a second behind, and sampled twice a second.
    assert view.listed_until == pytest.approx(view.closed, abs=5)


def test_all_connections_of_a_cell_are_counted(broker: Broker) -> None:
    cell = f"cell-{time.monotonic_ns()}"

    def connect(name: str, heartbeat: int) -> pika.BlockingConnection:
        parameters = pika.URLParameters(broker.amqp_url(heartbeat=heartbeat))
        parameters.client_properties = {"connection_name": f"{cell}:{name}"}
        return pika.BlockingConnection(parameters)

    with (
        connect("1:send", 60),
        connect("1:listen", 30),
        BrokerWatch(broker.management.connections) as watch,
    ):
        wait_until(lambda: watch.listed_now()[cell] == 2, timeout=15)

        assert watch.add_to(BrokerView(), cell).heartbeat == 30


def test_a_connection_never_listed_leaves_the_view_as_it_was(broker: Broker) -> None:
    with BrokerWatch(broker.management.connections) as watch:
        watch.listed_now()

        assert watch.add_to(BrokerView(), "nobody") == BrokerView()


def test_a_management_api_that_does_not_answer_is_an_error_of_our_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(observer, "_SAMPLE_LIMIT", 2.0)

    def no_peer() -> list[dict[str, object]]:
        requests.get("http://127.0.0.1:9/api/connections", timeout=1)
        return []

    with (
        BrokerWatch(no_peer) as watch,
        pytest.raises(BrokerUnobservableError, match="management API has not answered for 2 s"),
    ):
        watch.listed_now()
