"""The driver over AMQP 1.0 on RabbitMQ: what the contract of all drivers does not cover."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import hbshim
from hbshim import messaging
from hbshim.errors import (
    CallTimeoutError,
    ConnectError,
    MessagingError,
    OptionError,
    UnroutableError,
)
from hbshim.messaging.amqp1.answers import Answer, Answers
from hbshim.messaging.amqp1.connection import Connection
from hbshim.messaging.amqp1.driver import Amqp1Driver
from hbshim.messaging.amqp1.shared import SharedConnection
from tests.concurrency import MODEL, needs_os_threads
from tests.messaging.conftest import LIMIT, unique
from tests.messaging.endpoints import Endpoint
from tests.native_fork import fork_in_c
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker

CHECKOUT = Path(__file__).parents[3]

Drivers = Callable[..., messaging.Driver]
Serve = Callable[..., messaging.Server]


@pytest.fixture
def drivers(broker: Broker) -> Iterator[Drivers]:
    """Make drivers; each is closed when the test ends."""
    made: list[messaging.Driver] = []

    def make(scheme: str = "hbamqp", **options: Any) -> messaging.Driver:
        url = broker.amqp_url().replace("amqp://", f"{scheme}://")
        limits = {"socket_timeout": LIMIT, "handshake_timeout": LIMIT, "rpc_queue_expiration": 30}
        made.append(messaging.connect(url, **{**limits, **options}))
        return made[-1]

    yield make
    for driver in made:
        driver.close()


@pytest.fixture
def driver(drivers: Drivers) -> messaging.Driver:
    """A driver of the test's own."""
    return drivers()


def test_giving_up_a_call_does_not_disturb_the_next(
    driver: messaging.Driver, target: messaging.Target
) -> None:
    """RabbitMQ ends the session over a sender that settles a message by itself."""
    caller = driver._callers.get()  # type: ignore[attr-defined]
    link = None
    for _ in range(3):
        # Each attempt is released; the last one is given up before that.
        with pytest.raises(CallTimeoutError):
            driver.call(target, messaging.Payload(b"{}"), 0.3)
        with pytest.raises(UnroutableError):
            driver.call(target, messaging.Payload(b"{}"), LIMIT, mandatory=True)
        senders = caller.shared.connected(time.monotonic() + LIMIT, 1).connection._senders
        assert link in (None, senders[0])
        link = senders[0]
        assert not link.ended


# -- with the other drivers, over the same queues ------------------------------------


@pytest.mark.parametrize("other", ["hbpika", "hbkombu"])
@pytest.mark.parametrize("serves", ["this", "other"])
def test_it_shares_queues_with_the_drivers_over_amqp_0_9_1(
    other: str, serves: str, drivers: Drivers, target: messaging.Target, serve: Serve
) -> None:
    this = drivers()
    that = drivers(other)
    serving, calling = (this, that) if serves == "this" else (that, this)
    endpoint, events = Endpoint(), Events()
    serve(serving, target.to(server="one"), endpoint)
    client = messaging.Client(calling, target, timeout=LIMIT)
    assert client.call("echo", value=1) == 1
    reported: list[int] = []
    assert client.prepare(on_progress=reported.append).call("count", to=3) == "counted"
    assert reported == [0, 1, 2]
    with pytest.raises(ValueError, match="a value"):
        client.call("raise_builtin")
    client.prepare(server="one").cast("echo", value=2)
    client.prepare(fanout=True).cast("echo", value=3)
    wait_until(lambda: sorted(endpoint.asked) == [1, 2, 3], LIMIT)
    with messaging.NotificationServer(serving, [target.topic], [events]):
        messaging.Notifier(calling, target.topic, "here", timeout=LIMIT).info("event", "told")
        wait_until(lambda: events.got == ["told"], LIMIT)


class Events:
    def __init__(self) -> None:
        self.got: list[Any] = []

    def info(self, notification: messaging.Notification) -> None:
        self.got.append(notification.payload)


# -- casts -----------------------------------------------------------------------------


def test_a_cast_waits_for_a_servers_queue(
    driver: messaging.Driver, target: messaging.Target, serve: Serve
) -> None:
    client = messaging.Client(driver, target, timeout=LIMIT)
    # Connects, and declares what it needs.
    client.prepare(fanout=True).cast("echo", value=1)
    began = time.monotonic()
    with pytest.raises(UnroutableError, match=target.topic):
        client.prepare(timeout=4).cast("echo", value=1)
    # The last attempt is not begun where it might not end in time.
    assert time.monotonic() - began >= 2
    with pytest.raises(UnroutableError):
        driver.cast(target, messaging.Payload(b"{}"), LIMIT, mandatory=True)
    # A fanout without a server is no error.
    client.prepare(fanout=True).cast("echo", value=1)


def test_time_that_connecting_took_is_not_kept_for_the_last_attempt(
    driver: messaging.Driver, target: messaging.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = SharedConnection.connected
    slow = [1.5]

    def connected(shared: SharedConnection, deadline: float, attempts: int) -> Any:
        until = time.monotonic() + (slow.pop() if slow else 0.0)
        wait_until(lambda: time.monotonic() >= until, LIMIT)
        return connect(shared, deadline, attempts)

    client = messaging.Client(driver, target, timeout=LIMIT)
    client.prepare(fanout=True).cast("echo", value=1)
    monkeypatch.setattr(SharedConnection, "connected", connected)
    began = time.monotonic()
    with pytest.raises(UnroutableError):
        client.prepare(timeout=4).cast("echo", value=1)
    assert not slow
    assert time.monotonic() - began >= 3


def test_a_cast_that_is_not_confirmed(
    drivers: Drivers, target: messaging.Target, serve: Serve
) -> None:
    driver, endpoint = drivers(cast_confirm=False), Endpoint()
    client = messaging.Client(driver, target, timeout=LIMIT)
    hbshim.take_events()
    client.cast("echo", value="lost")
    serve(driver, target, endpoint)
    client.cast("echo", value="arrives")
    wait_until(lambda: endpoint.asked == ["arrives"], LIMIT)
    # A fanout without a server is no loss.
    messaging.Client(driver, messaging.Target(unique("none")), timeout=LIMIT).prepare(
        fanout=True
    ).cast("echo", value=1)
    assert client.call("echo", value="after") == "after"
    (event,) = [each for each in hbshim.take_events() if each.kind.startswith("message-")]
    assert event.kind == "message-dropped"
    assert "no queue or server accepts it" in event.detail


def test_a_reply_without_a_queue_does_not_hold_up_its_worker(
    drivers: Drivers, target: messaging.Target, serve: Serve
) -> None:
    endpoint = Endpoint()
    serve(drivers(reply_retry=20), target, endpoint, workers=1)
    gone = drivers()

    def call() -> None:
        with contextlib.suppress(MessagingError):
            messaging.Client(gone, target, timeout=LIMIT).call("hold")

    caller = threading.Thread(target=call, daemon=True)
    caller.start()
    wait_until(lambda: endpoint.asked, LIMIT)
    # Its queue for replies is deleted.
    gone.close()
    caller.join(LIMIT)
    endpoint.release.set()
    began = time.monotonic()
    client = messaging.Client(drivers(), target, timeout=LIMIT)
    assert client.call("echo", value=1) == 1
    assert time.monotonic() - began < 10


def test_a_reply_that_is_not_confirmed_as_the_server_stops_is_sent_again(
    drivers: Drivers, target: messaging.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is lost, and the listener opens no other one."""
    replying, stopping = threading.Event(), threading.Event()

    def publish_into_nothing(
        self: Answers, answer: Answer, connection: Connection, deadline: float
    ) -> None:
        replying.set()
        assert stopping.wait(LIMIT)
        answer.connection = connection
        connection.close(0.1)

    monkeypatch.setattr(Answers, "_publish", publish_into_nothing)
    server = messaging.Server(drivers(), target, [Endpoint()], workers=1)
    assert server.start(LIMIT)
    answers: list[object] = []
    client = messaging.Client(drivers(), target, timeout=LIMIT)
    caller = threading.Thread(target=lambda: answers.append(client.call("echo", value=1)))
    caller.start()
    assert replying.wait(LIMIT)
    stopped: list[bool] = []
    stopper = threading.Thread(target=lambda: stopped.append(server.stop(LIMIT)))
    stopper.start()
    stopping.set()
    stopper.join(LIMIT)
    caller.join(LIMIT)
    assert (stopped, answers) == ([True], [1])


# -- TLS and logins ----------------------------------------------------------------------


def tls_url(broker: Broker, scheme: str = "hbamqps") -> str:
    return f"{scheme}://{broker.user}:{broker.password}@localhost:{broker.tls_port}/"


def test_calls_over_tls(broker: Broker, tmp_path: Path, target: messaging.Target) -> None:
    assert broker.ca_pem is not None
    ca = tmp_path / "ca.pem"
    ca.write_text(broker.ca_pem)
    driver = messaging.connect(tls_url(broker), ssl_options={"cafile": str(ca)})
    try:
        server = messaging.Server(driver, target, [Endpoint()])
        assert server.start(LIMIT)
        client = messaging.Client(driver, target, timeout=LIMIT)
        value = "x" * 300_000
        assert [client.call("echo", value=value) for _ in range(5)] == [value] * 5
        assert server.stop(LIMIT)
    finally:
        driver.close()


def test_a_certificate_that_is_not_trusted(broker: Broker, target: messaging.Target) -> None:
    driver = messaging.connect(tls_url(broker))
    with pytest.raises(ConnectError, match="TLS failed") as caught:
        driver.call(target, messaging.Payload(b"{}"), LIMIT, attempts=1)
    assert broker.password not in str(caught.value)
    driver.close()


def test_wrong_credentials_end_a_call_and_a_server_at_once(
    broker: Broker, target: messaging.Target
) -> None:
    url = f"hbamqp://{broker.user}:not-this-one@{broker.host}:{broker.amqp_port}/"
    driver = messaging.connect(url)
    with pytest.raises(ConnectError, match="the login of user") as caught:
        messaging.Client(driver, target, timeout=LIMIT).call("echo", value=1)
    assert "not-this-one" not in str(caught.value)
    with pytest.raises(ConnectError, match="the login of user"):
        messaging.Server(driver, target, [Endpoint()]).start(LIMIT)
    driver.close()


def test_external_needs_a_certificate() -> None:
    with pytest.raises(OptionError, match="needs a client certificate"):
        messaging.connect("hbamqps://host/", login_method="EXTERNAL")


def test_default_ports() -> None:
    for url, port in (("hbamqp://host/", 5672), ("hbamqps://host/", 5671)):
        driver = messaging.connect(url)
        assert isinstance(driver, Amqp1Driver)
        assert driver._connector._hosts[0].port == port


# -- forks -------------------------------------------------------------------------------


@pytest.mark.skipif(MODEL != "native", reason="the processes patch themselves")
@pytest.mark.parametrize(
    "model",
    # Over a router, in test_router.py, they are in `make test`.
    [
        "native",
        *(pytest.param(each, marks=pytest.mark.extended) for each in ("eventlet", "gevent")),
    ],
)
def test_a_fork(
    model: str, driver: messaging.Driver, broker: Broker, target: messaging.Target, serve: Serve
) -> None:
    """Both processes go on with a driver that was used before."""
    endpoint = Endpoint()
    serve(driver, target, endpoint)
    done = subprocess.run(
        [sys.executable, CHECKOUT / "tests/messaging/forking.py", model, target.topic],
        env={
            **os.environ,
            "PYTHONPATH": str(CHECKOUT),
            "URL": broker.amqp_url().replace("amqp://", "hbamqp://"),
        },
        capture_output=True,
        text=True,
        timeout=2 * LIMIT,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == ["child", "parent"]
    said = ["before", *(f"{who}-{number}" for who in ("child", "parent") for number in range(5))]
    assert sorted(set(endpoint.asked)) == sorted(said)


@needs_os_threads
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("fork", [os.fork, fork_in_c], ids=["os", "c"])
def test_a_child_connects_anew(
    fork: Callable[[], int], driver: messaging.Driver, target: messaging.Target, serve: Serve
) -> None:
    endpoint = Endpoint()
    serve(driver, target, endpoint)
    client = messaging.Client(driver, target, timeout=LIMIT)
    assert client.call("echo", value="parent") == "parent"
    child = fork()
    if child == 0:
        code = 1
        try:
            code = 0 if client.call("echo", value="child") == "child" else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert client.call("echo", value="again") == "again"
    assert endpoint.asked == ["parent", "child", "again"]
