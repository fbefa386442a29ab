"""RabbitMQ's drivers when networks and brokers fail, on a broker of its own.

Clients reach it by way of a relay; so do servers, where a test is about them.
HBSHIM_POWER_CUT_MESSAGES is the number of notifications that each library sends through the
power cut.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hbshim.errors import (
    BrokerBlockedError,
    CallTimeoutError,
    ConfirmTimeoutError,
    ConnectError,
    MessagingError,
    RejectedError,
    UnroutableError,
)
from hbshim.messaging.amqp.connection import Connection
from hbshim.messaging.amqp.driver import AmqpDriver
from hbshim.messaging.hosts import Host
from hbshim.messaging.notify import Notification, NotificationServer, Notifier
from hbshim.messaging.rpc import Client
from hbshim.messaging.server import Server
from hbshim.messaging.target import Target
from hbshim.options import DEFAULT
from tests.messaging.conftest import LIBRARIES, LIMIT, at_once, connect, drain_until, unique
from tests.messaging.connections import message
from tests.messaging.endpoints import Endpoint
from tests.waiting import wait_until, wait_while_progressing
from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import Images
from wsgi_harness.stack.services import BROKER
from wsgi_harness.stack.stack import Stack, project_name
from wsgi_harness.wire.relay import Relay

Serve = Callable[..., Server]
Drivers = Callable[..., AmqpDriver]

#: Seconds; asked of the broker for where a silence is to be found.
T = 1

#: Seconds after which a reply goes to the client's own queue; see incoming.DIRECT_WITHIN.
LATE = 0.6


#: Another host is asked soon where one says nothing.
QUICK = {"socket_timeout": 1, "handshake_timeout": 2}

#: Notifications that each library sends while the power fails.
POWER_CUT_MESSAGES = int(os.environ.get("HBSHIM_POWER_CUT_MESSAGES", "2000"))


@pytest.fixture(scope="module")
def stack(engine: Engine, images: Images) -> Iterator[Stack]:
    """A broker that may be restarted."""
    with Stack(project_name("faults"), heartbeat=60, prepared=(engine, images)) as stack:
        yield stack


@pytest.fixture
def relay(stack: Stack) -> Iterator[Relay]:
    with Relay(stack.broker.host, stack.broker.amqp_port) as relay:
        yield relay


@pytest.fixture
def host(stack: Stack, relay: Relay) -> Host:
    """The broker behind the relay, for :func:`drivers`."""
    return Host(relay.host, relay.port, stack.broker.user, stack.broker.password)


@pytest.fixture
def direct(stack: Stack) -> Host:
    """The broker itself."""
    broker = stack.broker
    return Host(broker.host, broker.amqp_port, broker.user, broker.password)


@pytest.fixture
def rabbitmqctl(stack: Stack) -> Callable[..., None]:
    """Run the broker's own command-line tool in its container."""

    def call(*arguments: str) -> None:
        inside = ["env", "HOME=/var/lib/rabbitmq", "rabbitmqctl", *arguments]
        stack.exec(BROKER, inside, timeout=90)

    return call


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    found = Endpoint()
    yield found
    found.release.set()


@pytest.fixture
def client(driver: AmqpDriver, target: Target) -> Client:
    return Client(driver, target, timeout=2 * LIMIT)


class Calling:
    """A call that is under way in a thread."""

    def __init__(self, client: Client, method: str, **arguments: Any) -> None:
        self.outcome: Any = None

        def call() -> None:
            try:
                self.outcome = client.call(method, **arguments)
            except MessagingError as error:
                self.outcome = error

        self._thread = threading.Thread(target=call, daemon=True)
        self._thread.start()

    def end(self) -> Any:
        """What came of it."""
        self._thread.join(3 * LIMIT)
        assert not self._thread.is_alive(), "it hangs"
        return self.outcome


# -- in mid-call ---------------------------------------------------------------


def test_a_quick_reply_after_a_reconnection(
    client: Client, serve: Serve, drivers: Drivers, direct: Host, endpoint: Endpoint, relay: Relay
) -> None:
    """The request waited in its queue; the server has it for no time at all."""
    serving = drivers(direct)
    serving.declare_queue(client.target, DEFAULT)
    other = client.prepare(topic=unique("other"))
    serve(serving, other.target, endpoint)
    calls = [Calling(client, "echo", value=number) for number in range(5)]
    caller = client.driver._callers.get()  # type: ignore[attr-defined]
    # One of them reads, and the others wait.
    wait_until(lambda: len(caller._role._waiting) == 4 and caller._role.is_taken, LIMIT)
    # What the broker answers to this, it has read after them.
    assert other.call("echo", value="after") == "after"
    before = caller._sending
    relay.reset()
    wait_until(lambda: caller._sending not in (None, before), LIMIT)
    serve(serving, client.target, endpoint)
    assert [call.end() for call in calls] == list(range(5))


def test_the_network_goes_silent_in_mid_call(
    drivers: Drivers, serve: Serve, target: Target, host: Host, direct: Host, relay: Relay
) -> None:
    """hbshim's heartbeats find it, and the other host has the reply; otherwise nothing finds it."""
    endpoint = Endpoint()
    serve(drivers(direct), target, endpoint, workers=4)
    kept, bare = (drivers(host, direct, heartbeat_interval=t, **QUICK) for t in (T, 600))
    calls = [
        Calling(Client(driver, target, timeout=timeout), "hold", value=number)
        for number, (driver, timeout) in enumerate(((kept, LIMIT), (bare, 6 * T)))
    ]
    wait_until(lambda: len(endpoint.asked) == 2, LIMIT)
    relay.deaf()
    time.sleep(LATE)
    endpoint.release.set()
    assert calls[0].end() == 0
    assert isinstance(calls[1].end(), CallTimeoutError)
    assert Client(kept, target, timeout=LIMIT).call("echo", value="next") == "next"


def test_a_silent_network_behind_a_server(
    drivers: Drivers, serve: Serve, target: Target, host: Host, direct: Host, relay: Relay
) -> None:
    endpoint = Endpoint()
    serve(drivers(host, direct, heartbeat_interval=T, **QUICK), target, endpoint)
    client = Client(drivers(direct), target, timeout=LIMIT)
    assert client.call("echo", value=1) == 1
    relay.deaf()
    wait_until(lambda: answers(client.prepare(timeout=T)), LIMIT)


def answers(client: Client) -> bool:
    try:
        return bool(client.call("echo", value=1) == 1)
    except (CallTimeoutError, UnroutableError):
        return False


def test_a_late_reply_comes_once(client: Client, serve: Serve, endpoint: Endpoint) -> None:
    serve(client.driver, client.target, endpoint)
    caller = client.driver._callers.get()  # type: ignore[attr-defined]

    def given_up_while_it_runs() -> list[Any]:
        late = Calling(client.prepare(timeout=0.5), "hold", value="late")
        assert isinstance(late.end(), CallTimeoutError)
        # On a busy machine it may have expired before it was begun.
        return endpoint.asked

    wait_until(given_up_while_it_runs, LIMIT)
    endpoint.release.set()
    assert client.call("echo", value=1) == 1
    begun = endpoint.asked.count("late")
    wait_until(lambda: client.call("echo", value=2) == 2 and caller._calls.late == begun, LIMIT)
    # By way of the client's own queue: what comes after it would come after its second copy, too.
    assert client.call("last", seconds=LATE) == "at last"
    assert client.call("last", seconds=LATE) == "at last"
    assert caller._calls.late == begun


# -- a broker that does not take messages --------------------------------------


def test_the_memory_alarm(
    drivers: Drivers,
    serve: Serve,
    target: Target,
    direct: Host,
    rabbitmqctl: Callable[..., None],
) -> None:
    """A sender gets its error in time; a listener continues, and what it acknowledges is gone."""
    endpoint = Endpoint()
    serving = drivers(direct)
    server = serve(serving, target, endpoint, workers=2, acknowledge="after")
    driver = drivers(direct)
    client = Client(driver, target, timeout=LIMIT)
    notifier = Notifier(driver, unique("events"), "here", timeout=LIMIT)
    notifier.info("event", 1)
    for _ in range(10):
        client.cast("hold")
    wait_until(lambda: len(endpoint.asked) == 2, LIMIT)
    rabbitmqctl("set_vm_memory_high_watermark", "0.000001")
    try:
        ways: list[Callable[[], object]] = [
            lambda: blocked(lambda: client.prepare(timeout=1).cast("echo", value="lost")),
            lambda: blocked(Notifier(driver, "events", "here", timeout=1).info, "event", 2),
            lambda: blocked(client.prepare(timeout=1).call, "echo", value="lost"),
        ]
        assert at_once(*ways) == [None] * 3
        endpoint.release.set()
        wait_until(lambda: endpoint.asked.count(None) == 10, LIMIT)
        assert server.stop(LIMIT)
        assert serving.delete_queue(target) == endpoint.asked.count("lost") == 0
    finally:
        rabbitmqctl("set_vm_memory_high_watermark", "0.4")
    serve(drivers(direct), target, endpoint)
    assert client.call("echo", value="after") == "after"
    notifier.info("event", 3)


def test_the_memory_alarm_of_a_connection(direct: Host, memory_alarm: Callable[[], None]) -> None:
    """Each library, side by side: the alarm takes its time."""
    ours = [connect(library, direct) for library in LIBRARIES]
    errors: list[Exception] = []

    def publish(connection: Connection) -> None:
        try:
            connection.publish(message("nowhere"), LIMIT)
        except Exception as error:
            errors.append(error)

    try:
        for connection in ours:
            # The broker says that it is blocked to one who publishes.
            connection.publish(message("nowhere"))
            drain_until(connection, lambda connection=connection: connection.blocked)  # type: ignore[misc]
            began = time.monotonic()
            with pytest.raises(BrokerBlockedError):
                connection.publish(message("nowhere"), 0.2)
            with pytest.raises(BrokerBlockedError):
                connection.publish_confirmed(message("nowhere"), 0.2)
            assert time.monotonic() - began < LIMIT / 2
            assert connection.is_open
        patient = [threading.Thread(target=publish, args=(connection,)) for connection in ours]
        for thread in patient:
            thread.start()
        memory_alarm()
        for thread in patient:
            thread.join(LIMIT)
            assert not thread.is_alive()
        assert errors == []
        assert not any(connection.blocked for connection in ours)
    finally:
        for connection in ours:
            connection.close()


def blocked(send: Callable[..., object], *arguments: object, **named: object) -> None:
    """Send until it is known that the broker takes nothing; each time within a second or so."""
    until = time.monotonic() + LIMIT
    while (began := time.monotonic()) < until:
        try:
            send(*arguments, **named)
        except (ConfirmTimeoutError, CallTimeoutError):
            pass
        except ConnectError:
            pass  # a busy broker takes longer to answer than the time of a message
        except BrokerBlockedError:
            return
        finally:
            assert time.monotonic() - began < LIMIT / 2
        # The first message is on its way when the broker reports the alarm.
        time.sleep(0.05)
    raise AssertionError("no caller was notified")


def test_rejected(drivers: Drivers, direct: Host, rabbitmqctl: Callable[..., None]) -> None:
    topic = unique("full")
    definition = '{"max-length": 1, "overflow": "reject-publish"}'
    rabbitmqctl("set_policy", topic, f"{topic}", definition, "--apply-to", "queues")
    few = drivers(direct)
    Notifier(few, topic, "here", timeout=LIMIT).info("event", 1)
    with pytest.raises(RejectedError):
        Notifier(few, topic, "here", timeout=LIMIT).info("event", 2)
    # With a longer timeout it waits until there is space.
    patient = drivers(direct, rejected_message_retry_attempts=1000)
    sending = threading.Thread(
        target=Notifier(patient, topic, "here", timeout=LIMIT).info, args=("event", 3)
    )
    sending.start()
    got: list[Any] = []
    with NotificationServer(few, [topic], [Taking(got)]):
        wait_until(lambda: len(got) == 2, LIMIT)
    sending.join(LIMIT)
    assert got == [1, 3]


class Taking:
    def __init__(self, got: list[Any]) -> None:
        self._got = got

    def info(self, notification: Notification) -> None:
        self._got.append(notification.payload)


def test_a_notification_whose_queue_is_gone(drivers: Drivers, direct: Host) -> None:
    """It was there when the sender looked; it is declared again, and the message stored."""
    driver = drivers(direct)
    topic = unique("gone")
    notifier = Notifier(driver, topic, "here", timeout=LIMIT)
    name = f"{driver.options.default_notification_exchange}.{topic}.info"
    for _ in range(2):
        notifier.info("event", 1)
        soon = time.monotonic() + LIMIT
        assert (
            driver._sender.with_connection(lambda found: found.connection.delete_queue(name), soon)
            == 1
        )


# -- nothing lost, nothing twice -----------------------------------------------


class Ledger:
    """Notes every notification that comes."""

    def __init__(self) -> None:
        self.got: Counter[int] = Counter()

    def info(self, notifications: list[Notification]) -> None:
        self.got.update(notification.payload for notification in notifications)


def test_notifications_survive_a_power_cut(
    drivers_over: Drivers, stack: Stack, relay: Relay
) -> None:
    """Sent by each library without an error: each arrives, at least once."""
    seed = random.randrange(2**32)
    cut_at = random.Random(seed).randrange(POWER_CUT_MESSAGES // 10, 3 * POWER_CUT_MESSAGES // 2)
    print(f"seed {seed}: the power fails after {cut_at}")  # noqa: T201 - to repeat it
    ledgers = {library: Ledger() for library in LIBRARIES}
    sent: list[tuple[str, int]] = []
    senders: list[Callable[[], None]] = []
    listeners: list[NotificationServer] = []
    for library, ledger in ledgers.items():
        topic = unique("ledger")
        # However long it takes; what is confirmed has been written to disk.
        lasting = drivers_over(
            library,
            notification_persistence=True,
            connection_retry_attempts=10_000,
            **QUICK,
        )
        senders += [sender(Notifier(lasting, topic, "here", timeout=20 * LIMIT), library, sent)] * 2
        listeners.append(
            NotificationServer(
                drivers_over(library, **QUICK),
                [topic],
                [ledger],
                batch_size=100,
                batch_timeout=0.1,
            )
        )
    try:
        for listener in listeners:
            assert listener.start(LIMIT)

        def cut() -> None:
            wait_while_progressing(lambda: len(sent) >= cut_at, lambda: len(sent))
            stack.kill(BROKER)
            stack.start(BROKER)
            relay.dial_to(stack.broker.host, stack.broker.amqp_port)

        assert at_once(cut, *senders, progress=lambda: len(sent)) == [None] * 5
        assert sorted(sent) == sorted(itertools.product(LIBRARIES, range(POWER_CUT_MESSAGES)))
        for library, ledger in ledgers.items():
            wait_while_progressing(
                lambda ledger=ledger: len(ledger.got) == POWER_CUT_MESSAGES,  # type: ignore[misc]
                lambda ledger=ledger: len(ledger.got),  # type: ignore[misc]
            )
            again = sum(ledger.got.values()) - POWER_CUT_MESSAGES
            print(f"{library}: {again} came more than once")  # noqa: T201 - the measurement
    finally:
        for listener in listeners:
            listener.stop(LIMIT)


def sender(notifier: Notifier, library: str, sent: list[tuple[str, int]]) -> Callable[[], None]:
    """Sends :data:`POWER_CUT_MESSAGES`, by however many threads it is called in."""
    numbers = itertools.count()

    def send() -> None:
        while (number := next(numbers)) < POWER_CUT_MESSAGES:
            notifier.info("event", number)
            sent.append((library, number))

    return send


def test_what_runs_is_not_begun_again_when_its_connection_is_lost(
    drivers: Drivers, serve: Serve, client: Client, direct: Host, relay: Relay
) -> None:
    """It is acknowledged last: the broker redelivers it while its server still works on it."""
    endpoint = Endpoint()
    server = serve(drivers(), client.target, endpoint, acknowledge="after")
    listener: Any = server._listener
    calling = Calling(Client(drivers(direct), client.target, timeout=LIMIT), "hold", value=1)
    wait_until(lambda: endpoint.asked == [1], LIMIT)
    relay.reset()
    # The control: it did come again.
    wait_until(lambda: any(listener._inbox.duplicates._running.values()), LIMIT)
    endpoint.release.set()
    assert calling.end() == 1
    assert client.call("echo", value=2) == 2
    assert endpoint.asked == [1, 2]
    assert server.stop(LIMIT)
    driver: Any = client.driver
    assert driver.delete_queue(client.target) == 0
