"""kombu on the real broker: URL options, the stand-in transport, reconnection."""

from __future__ import annotations

import inspect
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import kombu
import pytest

import hbshim
from hbshim.adapters.kombu.heartbeat import SslTransport, connection_options
from hbshim.errors import AttachError, OptionError
from hbshim.heartbeat.service import current
from hbshim.heartbeat.state import State
from tests.concurrency import needs_os_threads
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay


@pytest.fixture
def connect(broker: Broker) -> Iterator[Callable[..., kombu.Connection | None]]:
    opened = []

    def open_connection(
        scheme: str = "amqp", connect: bool = True, **query: str
    ) -> kombu.Connection:
        url = broker.amqp_url(**query).replace("amqp://", f"{scheme}://", 1)
        connection = kombu.Connection(url, heartbeat=1)
        opened.append(connection)
        if connect:
            connection.connect()
        return connection

    yield open_connection
    for connection in opened:
        connection.release()


def link_of(connection: kombu.Connection) -> Any:
    return getattr(connection.connection.transport, "hbshim_link", None)


def use(connection: Any) -> None:
    connection.default_channel.queue_declare("", exclusive=True)


def test_install_keeps_kombu_alive(connect: Callable[..., kombu.Connection | None]) -> None:
    hbshim.install()
    connection = connect()
    wait_until(lambda: link_of(connection).heartbeats_sent >= 3)
    use(connection)


def test_install_leaves_kombus_signature_and_docstring() -> None:
    hbshim.install()
    init = kombu.Connection.__init__
    assert init is not init.__wrapped__
    assert init.__doc__ == init.__wrapped__.__doc__
    assert inspect.signature(init) == inspect.signature(init.__wrapped__)
    assert "login_method" in inspect.signature(kombu.Connection).parameters


def test_an_option_in_the_url_reaches_the_link(
    connect: Callable[..., kombu.Connection | None],
) -> None:
    hbshim.install()
    connect(heartbeat_in_pthread="true")
    with pytest.raises(OptionError, match="heartbeat_in_pthread='perhaps'"):
        connect(heartbeat_in_pthread="perhaps")


def test_a_keyword_of_install_wins_over_the_url(
    connect: Callable[..., kombu.Connection | None],
) -> None:
    hbshim.install(heartbeat_in_pthread="auto")
    assert link_of(connect(heartbeat_in_pthread="perhaps")) is not None


def test_the_stand_in_transport_needs_no_install(
    connect: Callable[..., kombu.Connection | None],
) -> None:
    hbshim.kombu.register()
    connection = connect(scheme="hbshim", heartbeat_in_pthread="true")
    assert connection.transport.driver_name == "py-amqp+hbshim"
    wait_until(lambda: link_of(connection).heartbeats_sent >= 3)
    use(connection)


def test_options_survive_the_clones_that_pools_make(
    connect: Callable[..., kombu.Connection | None],
) -> None:
    hbshim.kombu.register()
    original = connect(scheme="hbshim", connect=False, heartbeat_in_pthread="perhaps")
    clone = original.clone()
    with pytest.raises(OptionError):
        clone.connect()


def test_the_stand_in_connection_needs_neither_install_nor_register(broker: Broker) -> None:
    url = broker.amqp_url(heartbeat_in_pthread="true")
    with hbshim.kombu.Connection(url, heartbeat=1) as original, original.clone() as connection:
        connection.connect()
        assert connection_options(connection) == {"heartbeat_in_pthread": "true"}
        assert connection.transport.driver_name == "py-amqp+hbshim"
        wait_until(lambda: link_of(connection).heartbeats_sent >= 3)
        use(connection)
        first = link_of(connection)
        connection.close()
        connection.connect()
        use(connection)
        assert link_of(connection) not in (None, first)


def test_a_pool_of_the_stand_in_keeps_its_connections_alive_and_replaces_dead_ones(
    broker: Broker,
) -> None:
    with hbshim.kombu.Connection(broker.amqp_url(), heartbeat=1) as original:
        pool = original.Pool(1)
        with pool.acquire() as connection:
            use(connection)
            first = link_of(connection)
            # The broker takes it for the client's end, and closes.
            connection.connection.transport.sock.shutdown(socket.SHUT_WR)
        wait_until(lambda: first.state is State.LOST)
        with pool.acquire() as connection:
            use(connection)
            assert link_of(connection) not in (None, first)
        pool.force_close_all()


def test_the_stand_in_connection_leaves_the_choice_of_the_transport_to_kombu() -> None:
    chosen = {
        scheme: hbshim.kombu.Connection(f"{scheme}://host//").get_transport_cls()
        for scheme in ("pyamqp", "amqps", "memory")
    }
    assert chosen["pyamqp"].driver_name == "py-amqp+hbshim"
    assert chosen["amqps"] is SslTransport
    assert chosen["memory"] is kombu.Connection("memory://").get_transport_cls()


def test_several_hosts_keep_their_options(broker: Broker) -> None:
    hbshim.kombu.register()
    good = broker.amqp_url(heartbeat_in_pthread="true")
    refusing = "amqp://guest:guest@127.0.0.1:1//"
    for hosts in (f"{refusing};{good}", [refusing, good]):
        connection = kombu.Connection(hosts)
        assert connection_options(connection) == {"heartbeat_in_pthread": "true"}
        assert all("heartbeat_in_pthread" not in url for url in connection.alt)


def test_keep_alive_follows_a_kombu_connection_through_its_reconnection(
    connect: Callable[..., kombu.Connection | None],
) -> None:
    connection = connect()
    hbshim.keep_alive(connection)
    first = link_of(connection)
    connection.close()
    connection.connect()
    second = link_of(connection)
    assert second is not None
    assert second is not first
    wait_until(lambda: second.heartbeats_sent >= 2)


def test_a_connection_that_is_not_open_says_what_to_do(
    connect: Callable[..., kombu.Connection | None],
) -> None:
    with pytest.raises(AttachError, match=r"call its connect\(\) first"):
        hbshim.keep_alive(connect(connect=False))


def test_another_transport_is_refused_by_name() -> None:
    connection = kombu.Connection("memory://")
    connection.connect()
    with pytest.raises(AttachError, match="use an amqp:// URL"):
        hbshim.keep_alive(connection)
    connection.release()


def test_existing_heartbeat_checks_go_on_working(
    connect: Callable[..., kombu.Connection | None],
) -> None:
    hbshim.install()
    connection = connect()
    sent = link_of(connection).heartbeats_sent
    wait_until(
        lambda: (
            connection.heartbeat_check(),
            link_of(connection).heartbeats_sent >= sent + 6,
        )[1]
    )
    use(connection)


def test_a_released_connection_is_no_longer_watched(
    connect: Callable[..., kombu.Connection | None],
) -> None:
    hbshim.install()
    connection = connect()
    link = link_of(connection)
    assert link in current().links()
    connection.release()
    assert link not in current().links()


@needs_os_threads
def test_a_time_limit_in_a_publish_does_not_hang_the_pool(broker: Broker) -> None:
    """The limit is an ordinary Exception, and the broker is slow to read."""

    class TimeLimitError(Exception):
        pass

    def on_alarm(*_: object) -> NoReturn:
        raise TimeLimitError

    hbshim.install()
    with Relay(broker.host, broker.amqp_port, receive_buffer=8192) as relay:
        url = f"amqp://{broker.user}:{broker.password}@127.0.0.1:{relay.port}//"
        producers = kombu.Connection(url, heartbeat=60).Pool(1)
        relay.slow(1 << 20)
        before = signal.signal(signal.SIGALRM, on_alarm)
        try:
            began = time.monotonic()
            with pytest.raises(TimeLimitError), producers.acquire() as connection:
                channel = connection.default_channel
                sock = connection.connection.transport.sock
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
                signal.setitimer(signal.ITIMER_REAL, 0.3)
                kombu.Producer(channel).publish(b"x" * (64 << 20), routing_key="nowhere")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        relay.slow(None)
        with producers.acquire() as connection:
            queue = connection.default_channel.queue_declare("", exclusive=True).queue
            kombu.Producer(connection).publish(b"x", routing_key=queue)
            wait_until(lambda: connection.default_channel.basic_get(queue))
        # T is 4 s here at most: without an end of the torn stream the pool waits for 3 T.
        assert time.monotonic() - began < 10
        producers.force_close_all()
