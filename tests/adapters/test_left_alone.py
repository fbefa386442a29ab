"""What hbshim cannot keep alive works as without it: an error of hbshim's stays its own."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

import amqp
import kombu
import pika
import pytest

import hbshim
from hbshim import messaging
from hbshim.adapters import attach, attachment, sockets
from hbshim.adapters.pika import heartbeat as pika_adapter
from hbshim.adapters.pika.heartbeat import BlockingConnection
from hbshim.adapters.pyamqp import heartbeat as amqp_adapter
from hbshim.errors import AttachError, WorkerError
from hbshim.heartbeat import service
from hbshim.heartbeat.service import HeartbeatService
from hbshim.heartbeat.wire import Wire
from hbshim.messaging.base import Driver
from hbshim.runtime.choice import Choice
from hbshim.runtime.fork import ProcessLocal
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker
from wsgi_harness.wire.relay import Relay

#: Asked for by hbshim, where the application asks for none.
#: Opens a connection: it, a call that uses it, and what asks for the negotiated heartbeat.
Way: TypeAlias = Callable[..., tuple[Any, Callable[..., Any], Callable[..., Any]]]

ASKED = 3  # below what the broker suggests


def py_amqp(
    broker: Broker, **heartbeat: Any
) -> tuple[amqp.Connection, Callable[..., Any], Callable[..., Any]]:
    hbshim.install(heartbeat=ASKED)
    connection = amqp.Connection(
        f"{broker.host}:{broker.amqp_port}", broker.user, broker.password, **heartbeat
    )
    connection.connect()
    return connection, connection.channel, lambda: connection.heartbeat


def kombu_installed(
    broker: Broker, **heartbeat: Any
) -> tuple[kombu.Connection, Callable[..., Any], Callable[..., Any]]:
    hbshim.install(heartbeat=ASKED)
    return over_kombu(broker.amqp_url(), **heartbeat)


def kombu_transport(
    broker: Broker, **heartbeat: Any
) -> tuple[kombu.Connection, Callable[..., Any], Callable[..., Any]]:
    hbshim.kombu.register()
    url = broker.amqp_url(hbshim_heartbeat=ASKED).replace("amqp://", "hbshim://", 1)
    return over_kombu(url, **heartbeat)


def over_kombu(
    url: str, **heartbeat: Any
) -> tuple[kombu.Connection, Callable[..., Any], Callable[..., Any]]:
    connection = kombu.Connection(url, **heartbeat)
    connection.connect()
    return connection, connection.channel, lambda: connection.connection.heartbeat


def pika_installed(
    broker: Broker, **heartbeat: Any
) -> tuple[pika.BlockingConnection, Callable[..., Any], Callable[..., Any]]:
    hbshim.install()
    return over_pika(pika.BlockingConnection, broker, **heartbeat)


def pika_stand_in(
    broker: Broker, **heartbeat: Any
) -> tuple[BlockingConnection, Callable[..., Any], Callable[..., Any]]:
    return over_pika(pika_adapter.BlockingConnection, broker, **heartbeat)


def over_pika(
    kind: type[BlockingConnection] | type[pika.BlockingConnection], broker: Broker, **heartbeat: Any
) -> tuple[BlockingConnection | pika.BlockingConnection, Callable[..., Any], Callable[..., Any]]:
    connection = kind(pika.URLParameters(broker.amqp_url(**heartbeat)))
    return connection, connection.channel, lambda: connection._impl.params.heartbeat


def hbkombu(
    broker: Broker, **_heartbeat: object
) -> tuple[Driver, Callable[..., Any], Callable[..., Any]]:
    return over_driver("hbkombu", broker)


def hbpika(
    broker: Broker, **_heartbeat: object
) -> tuple[Driver, Callable[..., Any], Callable[..., Any]]:
    return over_driver("hbpika", broker)


def over_driver(
    scheme: str, broker: Broker
) -> tuple[Driver, Callable[..., Any], Callable[..., Any]]:
    driver = messaging.connect(broker.amqp_url().replace("amqp://", f"{scheme}://", 1))
    client = messaging.Client(driver, messaging.Target("left-alone"), timeout=10)
    return driver, lambda: client.cast("nothing"), lambda: 0


#: Those that ask for a heartbeat only because hbshim does.
ASKING: tuple[Way, ...] = (py_amqp, kombu_installed, kombu_transport)
WAYS: tuple[Way, ...] = (*ASKING, pika_installed, pika_stand_in, hbkombu, hbpika)


@pytest.fixture(autouse=True)
def fresh_service(monkeypatch: pytest.MonkeyPatch) -> ProcessLocal[Any]:
    """A process in which no heartbeat was sent yet."""
    own = ProcessLocal(HeartbeatService, HeartbeatService.orphan_links)
    monkeypatch.setattr(service, "_SERVICE", own)
    return own


def detection_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> NoReturn:
        raise RuntimeError("detection fails")

    monkeypatch.setattr(attach, "choose_worker", fail)


def threads_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> NoReturn:
        raise WorkerError("no native thread can be started here")

    monkeypatch.setattr("hbshim.heartbeat.workers.start_native_thread", refuse)
    # In a green program, too, where a green thread would be the choice.
    monkeypatch.setenv("HBSHIM_WORKER", "pthread")


def metrics_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> NoReturn:
        raise RuntimeError("metrics fail")

    monkeypatch.setattr("hbshim.metrics.Metrics.count", fail)


def the_socket_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(sock: socket.socket) -> NoReturn:
        raise hbshim.errors.AttachError("hbshim does not know the socket")

    monkeypatch.setattr(amqp_adapter, "wire_for", fail)
    monkeypatch.setattr(pika_adapter, "wire_for", fail)


FAULTS = (threads_are_refused, detection_fails, metrics_fail, the_socket_is_unknown)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_connection_works_that_cannot_be_kept_alive(
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
    way: Way,
    fault: Callable[[pytest.MonkeyPatch], None],
) -> None:
    if fault is the_socket_is_unknown and way in (hbkombu, hbpika):
        pytest.skip("the driver makes the socket itself")
    fault(monkeypatch)
    connection, use, _ = way(broker)
    use()
    connection.close()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_the_reason_is_an_event_and_a_log_record(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, way: Way
) -> None:
    threads_are_refused(monkeypatch)
    with caplog.at_level(logging.WARNING, "hbshim"):
        connection, use, _ = way(broker)
        use()
    kinds = {event.kind for event in service.current().metrics.take_events()}
    assert "not-kept-alive" in kinds
    connection.close()


def test_the_first_is_logged(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        "hbshim.event_log._log", ProcessLocal(hbshim.event_log._Log, lambda _: None)
    )
    threads_are_refused(monkeypatch)
    with caplog.at_level(logging.WARNING, "hbshim"):
        connection, _, _ = py_amqp(broker)
    assert any("no native thread can be started" in record.message for record in caplog.records)
    connection.close()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("way", ASKING, ids=lambda way: way.__name__)
def test_no_heartbeat_is_promised_that_is_not_sent(
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
    way: Way,
    fault: Callable[[pytest.MonkeyPatch], None],
) -> None:
    with monkeypatch.context() as patch:
        fault(patch)
        connection, use, negotiated = way(broker)
        assert negotiated() == 0
        use()
        connection.close()
    # Where it can be kept alive, it asks.
    connection, use, negotiated = way(broker)
    assert negotiated() == ASKED
    connection.close()


@pytest.mark.parametrize("scheme", ["hbkombu", "hbpika"])
def test_a_driver_promises_no_heartbeat_that_is_not_sent(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    threads_are_refused(monkeypatch)
    driver, use, _ = over_driver(scheme, broker)
    use()
    # Nothing was negotiated, hence no event but those of the connection left alone.
    kinds = {event.kind for event in service.current().metrics.take_events()}
    assert kinds <= {"not-kept-alive", "not-negotiated"}
    assert "not-negotiated" in kinds
    driver.close()


@pytest.mark.parametrize("way", ASKING, ids=lambda way: way.__name__)
def test_the_application_still_has_its_own_heartbeats(
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
    way: Way,
) -> None:
    threads_are_refused(monkeypatch)
    connection, _, negotiated = way(broker, heartbeat=1)
    assert negotiated() == 1
    inner = connection if isinstance(connection, amqp.Connection) else connection.connection
    sent = inner.bytes_sent
    inner.heartbeat_tick()
    wait_until(lambda: (inner.heartbeat_tick(), inner.prev_sent)[1] is not None)
    assert inner.bytes_sent >= sent
    assert "heartbeat_tick" not in vars(inner)
    connection.close()


@pytest.mark.parametrize("way", [pika_installed, pika_stand_in], ids=lambda way: way.__name__)
def test_pikas_own_checker_stays(
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
    way: Way,
) -> None:
    threads_are_refused(monkeypatch)
    connection, _, _ = way(broker, heartbeat=1)
    assert isinstance(connection._impl._heartbeat_checker, pika.heartbeat.HeartbeatChecker)
    connection.process_data_events(0.8)
    connection.close()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_the_next_connection_is_kept_alive_once_threads_can_be_started(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    with monkeypatch.context() as patch:
        threads_are_refused(patch)
        first, use, _ = way(broker, heartbeat=1)
        use()
    second, use, _ = way(broker, heartbeat=1)
    use()
    assert service.current().links()
    first.close()
    second.close()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_warnings_that_are_errors_stay_inside(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    monkeypatch.setattr(
        attach, "choose_worker", lambda *_: Choice("pthread", "reason", "a warning")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        connection, use, _ = way(broker, heartbeat=1)
        use()
    assert service.current().links(), "a warning is no reason to send no heartbeats"
    kinds = {event.kind for event in service.current().metrics.take_events()}
    assert "choice-warning" in kinds
    connection.close()


def test_a_reconnection_of_a_kept_kombu_connection_works(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, use, _ = over_kombu(broker.amqp_url(), heartbeat=1)
    hbshim.keep_alive(connection)
    connection.collect()
    monkeypatch.setattr(attachment, "watch", lambda *_: 1 / 0)
    connection.ensure_connection(max_retries=1)
    use()
    connection.close()


def test_keep_alive_itself_may_raise(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    connection, use, _ = over_kombu(broker.amqp_url(), heartbeat=1)
    threads_are_refused(monkeypatch)
    with pytest.raises(WorkerError):
        hbshim.keep_alive(connection)
    use()
    connection.close()


def over_relay(relay: Relay, broker: Broker, library: str, tls: bool) -> tuple[Any, Any]:
    """Return a connection that is not kept alive, and its socket."""
    if library == "pika":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        parameters = pika.ConnectionParameters(
            relay.host,
            relay.port,
            credentials=pika.PlainCredentials(broker.user, broker.password),
            ssl_options=pika.SSLOptions(context) if tls else None,
            heartbeat=60,
        )
        blocking = pika.BlockingConnection(parameters)
        return blocking, blocking._impl._transport._sock
    connection = kombu.Connection(
        relay.host,
        broker.user,
        broker.password,
        port=relay.port,
        ssl={"cert_reqs": ssl.CERT_NONE} if tls else False,
        heartbeat=60,
    )
    connection.connect()
    beneath = connection._connection
    return connection if library == "kombu" else beneath, beneath._transport.sock


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("library", ["py-amqp", "kombu", "pika"])
def test_keep_alive_of_a_connection_that_was_reset_raises_hbshims_error(
    broker: Broker, library: str, tls: bool
) -> None:
    """The library has not noticed it yet."""
    assert broker.tls_port
    with Relay(broker.host, broker.tls_port if tls else broker.amqp_port) as relay:
        connection, sock = over_relay(relay, broker, library, tls)
        relay.reset()
        wait_until(lambda: Wire(sockets.native_socket(sock)).kernel_view().peer_closed)
        with pytest.raises(AttachError, match="has ended"):
            hbshim.keep_alive(connection)
        assert "hbshim_options" not in vars(connection)
        with contextlib.suppress(Exception):
            connection.close()
        sock.close()


def test_the_stand_in_refuses_a_worker_before_it_connects(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hbshim.heartbeat.workers._eventlet_if_it_rules", lambda: None)
    monkeypatch.setitem(sys.modules, "gevent", None)
    monkeypatch.setattr(
        pika.BlockingConnection, "__init__", lambda *_: pytest.fail("it has connected")
    )
    with pytest.raises(WorkerError):
        pika_adapter.BlockingConnection(broker.amqp_url(), worker="greenthread")


def test_an_interrupt_closes_what_was_opened(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_arguments: object) -> NoReturn:
        raise KeyboardInterrupt

    opened = []
    monkeypatch.setattr(attachment, "watch", interrupt)
    open_native = sockets.native_socket
    for module in (amqp_adapter, pika_adapter):
        wire_for = module.wire_for
        monkeypatch.setattr(
            module,
            "wire_for",
            lambda sock, wire_for=wire_for: opened.append(open_native(sock)) or wire_for(sock),
        )
    for way in (py_amqp, kombu_transport, pika_stand_in):
        with pytest.raises(KeyboardInterrupt):
            way(broker, heartbeat=1)
        assert opened.pop().fileno() == -1, way
        hbshim.uninstall()
