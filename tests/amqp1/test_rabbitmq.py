"""RabbitMQ 4, which speaks AMQP 1.0 natively, on the port of AMQP 0-9-1."""

from __future__ import annotations

import contextlib
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hbshim.amqp1.delivery import Delivery
from hbshim.amqp1.events import (
    Attached,
    Closed,
    CreditChanged,
    Detached,
    Drained,
    Ended,
    LoginRefused,
    Origin,
    Received,
    Updated,
)
from hbshim.amqp1.mechanisms import Anonymous, Mechanism, Plain
from hbshim.amqp1.messages import Data, Message, decode_message, encode_message
from hbshim.amqp1.performatives import (
    SETTLED,
    Accepted,
    Error,
    Header,
    Modified,
    Properties,
    Rejected,
    Released,
    Source,
    Target,
)
from hbshim.amqp1.values import Symbol
from hbshim.errors import PayloadError
from tests.amqp1.driver import Driver, content, message
from tests.amqp1.rabbitmq import connection, declare
from tests.brokers import virtual_host
from wsgi_harness.stack.broker import Broker

Connect = Callable[..., Driver]


@pytest.fixture
def connect(broker: Broker, vhost: str) -> Iterator[Connect]:
    """Opens connections to a virtual host of the test's own."""
    with contextlib.ExitStack() as stack:

        def connect(mechanism: Mechanism | None = None, **options: Any) -> Driver:
            address = (broker.host, broker.amqp_port)
            client = connection(broker, vhost, mechanism, **options)
            return stack.enter_context(Driver.connect(address, client))

        yield connect


@pytest.fixture
def driver(connect: Connect) -> Driver:
    """An open connection."""
    driver = connect()
    driver.open()
    return driver


def test_the_connection_opens(connect: Connect) -> None:
    driver = connect(idle_timeout=5)
    opened = driver.open()
    assert (opened.remote.properties or {})["product"] == "RabbitMQ"
    assert opened.remote.max_frame_size >= 512
    # Half of its heartbeat timeout.
    assert (opened.idle.timeout, opened.idle.silence) == (2.0, 10.0)
    driver.close()


def test_over_tls(broker: Broker, vhost: str) -> None:
    assert broker.tls_port is not None
    context = ssl.create_default_context(cadata=broker.ca_pem)
    raw = socket.create_connection((broker.host, broker.tls_port), 30)
    with Driver(
        context.wrap_socket(raw, server_hostname="localhost"), connection(broker, vhost)
    ) as driver:
        driver.open()
        address = declare(driver, "over-tls")
        session = driver.begin()
        sender = driver.sender(session, Target(address))
        assert driver.outcome(sender.send(message(b"x" * 100_000))) == Accepted()
        driver.receiver(session, Source(address), credit=1)
        assert content(driver.wait_for(Received).delivery) == b"x" * 100_000
        driver.close()


def test_a_message_there_and_back(driver: Driver) -> None:
    address = declare(driver, "there-and-back")
    session = driver.begin()
    sender = driver.sender(session, Target(address))
    sent = Message(
        Data((b"body",)),
        Header(durable=True, priority=5, ttl=60_000),
        None,
        {Symbol("x-opt-hbshim"): "annotation"},
        Properties("id", to=address, reply_to="/queues/reply", correlation_id=b"c", subject="s"),
        {"text": "ä", "number": -5, "flag": True, "none": None, "ratio": 1.5},
    )
    assert driver.outcome(sender.send(encode_message(sent))) == Accepted()
    receiver = driver.receiver(session, Source(address), credit=1)
    delivery = driver.wait_for(Received).delivery
    got = decode_message(delivery.payload)
    assert (got.body, got.properties) == (sent.body, sent.properties)
    assert got.application_properties == sent.application_properties
    assert got.message_annotations is not None
    assert got.message_annotations["x-opt-hbshim"] == "annotation"
    assert got.header is not None
    assert (got.header.durable, got.header.priority) == (True, 5)
    receiver.settle(delivery, Accepted())
    driver.close()


@pytest.mark.parametrize(
    ("outcome", "comes_again"),
    [
        (Accepted(), False),
        (Rejected(Error("hbshim:test", "not wanted")), False),
        (Released(), True),
        (Modified(delivery_failed=True), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_outcomes(driver: Driver, outcome: Any, comes_again: bool) -> None:
    address = declare(driver, "outcomes")
    session = driver.begin()
    sender = driver.sender(session, Target(address))
    driver.outcome(sender.send(message(b"first", header=Header(durable=True))))
    receiver = driver.receiver(session, Source(address), credit=1)
    delivery = driver.wait_for(Received).delivery
    header = decode_message(delivery.payload).header
    assert header is not None
    assert header.first_acquirer
    receiver.settle(delivery, outcome)
    driver.outcome(sender.send(message(b"second")))
    receiver.grant(1)
    again = driver.wait_for(Received).delivery
    assert content(again) == (b"first" if comes_again else b"second")
    header = decode_message(again.payload).header
    assert header is not None
    assert header.first_acquirer is not comes_again
    driver.close()


def test_a_delivery_that_is_not_settled_comes_again(driver: Driver, connect: Connect) -> None:
    address = declare(driver, "unsettled")
    session = driver.begin()
    sender = driver.sender(session, Target(address))
    driver.outcome(sender.send(message(b"again")))
    receiver = driver.receiver(session, Source(address), credit=1)
    delivery = driver.wait_for(Received).delivery
    receiver.detach()
    driver.wait_for(Detached)
    other = connect()
    other.open()
    other.receiver(other.begin(), Source(address), credit=1)
    assert content(other.wait_for(Received).delivery) == content(delivery)


def test_settled_messages(driver: Driver) -> None:
    address = declare(driver, "settled")
    session = driver.begin()
    sender = driver.sender(session, Target(address), snd_settle_mode=SETTLED)
    assert sender.send(message(b"x")).settled
    driver.receiver(session, Source(address), credit=1, snd_settle_mode=SETTLED)
    assert driver.wait_for(Received).delivery.settled


@pytest.mark.parametrize("max_frame_size", [512, 16_384, 65_536])
def test_messages_of_any_size(connect: Connect, max_frame_size: int) -> None:
    """With frames of 512 bytes, the larger ones close the session's window of 400 frames."""
    driver = connect(max_frame_size=max_frame_size)
    driver.open()
    address = declare(driver, "sizes")
    session = driver.begin()
    sender = driver.sender(session, Target(address))
    receiver = driver.receiver(session, Source(address), credit=1)
    sizes = [0, 1, max_frame_size - 50, max_frame_size, 5 * max_frame_size + 1]
    sizes.append(600_000 if max_frame_size == 512 else 5_000_000)
    waited = False
    for number, size in enumerate(sizes):
        body = bytes((number,)) * size
        sent = sender.send(message(body))
        waited |= bool(session.queued_frames)
        assert driver.outcome(sent) == Accepted()
        delivery = driver.wait_for(Received).delivery
        assert content(delivery) == body
        receiver.settle(delivery, Accepted())
        receiver.grant(1)
    assert waited == (max_frame_size == 512)
    driver.close()


def test_a_message_that_is_too_large(driver: Driver) -> None:
    address = declare(driver, "too-large")
    session = driver.begin()
    sender = driver.sender(session, Target(address))
    assert sender.remote is not None
    limit = sender.remote.max_message_size
    assert limit
    with pytest.raises(PayloadError, match="the peer accepts messages up to"):
        sender.send(bytes(limit + 1))


def test_a_receiver_gets_as_many_as_it_gives_credit_for(driver: Driver) -> None:
    address = declare(driver, "credit")
    session = driver.begin()
    sender = driver.sender(session, Target(address))
    for number in range(5):
        driver.outcome(sender.send(message(bytes((number,)))))
    receiver = driver.receiver(session, Source(address), credit=2)
    got = [driver.wait_for(Received).delivery for _ in range(2)]
    # A request of its own is answered only after all that was sent before it.
    driver.outcome(sender.send(message(b"\5")))
    driver.run(0.2)
    assert not [event for event in driver.events if isinstance(event, Received)]
    receiver.grant(10)
    got += [driver.wait_for(Received).delivery for _ in range(4)]
    assert [content(each) for each in got] == [bytes((number,)) for number in range(6)]
    assert receiver.credit == 6
    receiver.drain()
    driver.wait_for(Drained)
    assert receiver.credit == 0
    for each in got:
        receiver.settle(each, Accepted())
    driver.close()


def test_a_sender_waits_for_credit(driver: Driver) -> None:
    """RabbitMQ gives 170, and more as it takes messages over."""
    address = declare(driver, "many")
    session = driver.begin()
    sender = driver.sender(session, Target(address))
    sent: list[Delivery] = []
    exhausted = 0
    while len(sent) < 1000:
        if not sender.credit:
            exhausted += 1
            driver.wait_for(CreditChanged, where=lambda event: event.credit)
            continue
        sent.append(sender.send(message(b"x")))
    for delivery in sent:
        if not delivery.settled:
            driver.wait_for(Updated, where=lambda event, it=delivery: event.delivery is it)  # type: ignore[misc]
    assert exhausted
    assert {each.state for each in sent} == {Accepted()}
    driver.close()


@pytest.mark.parametrize(
    "mechanism", [Plain("hbshim", "wrong"), Anonymous()], ids=["PLAIN", "ANONYMOUS"]
)
def test_wrong_credentials(connect: Connect, mechanism: Mechanism) -> None:
    driver = connect(mechanism)
    with pytest.raises(AssertionError):
        driver.open()
    (event,) = driver.events
    assert isinstance(event, LoginRefused)
    assert driver.connection.closed
    if mechanism.name == "PLAIN":
        assert event == LoginRefused(1, "the peer refused the credentials (SASL PLAIN)")


def test_an_unknown_virtual_host(connect: Connect) -> None:
    """RabbitMQ, 4.0 as 4.3, writes the reason into its log only, and hangs up after 3 s."""
    driver = connect(hostname="vhost:nowhere")
    closed = driver.wait_for(Closed)
    assert closed.origin is not Origin.LOCAL


@pytest.mark.parametrize("sends", [True, False])
def test_an_unknown_address_ends_the_session(driver: Driver, sends: bool) -> None:
    session, other = driver.begin(), driver.begin()
    if sends:
        session.attach_sender("l", Target("/queues/nowhere"))
    else:
        session.attach_receiver("l", Source("/queues/nowhere"))
    ended = driver.wait_for(Ended)
    assert (ended.session, ended.by_peer) == (session, True)
    assert ended.error is not None
    assert ended.error.condition == "amqp:not-found"
    # The other one is not concerned.
    address = declare(driver, "known")
    driver.sender(other, Target(address))
    driver.close()


def test_an_unknown_queue_behind_an_anonymous_link(driver: Driver) -> None:
    """Without a target address, each message has its own."""
    address = declare(driver, "behind")
    session = driver.begin()
    sender = driver.sender(session, Target())
    known = message(b"x", properties=Properties(to=address))
    unknown = message(b"x", properties=Properties(to="/queues/nowhere"))
    assert driver.outcome(sender.send(known)) == Accepted()
    assert driver.outcome(sender.send(unknown)) == Released()
    driver.close()


def test_links_are_detached_and_attached_again(driver: Driver) -> None:
    address = declare(driver, "again-and-again")
    session = driver.begin()
    for number in range(300):
        link = session.attach_sender(f"link-{number}", Target(address))
        driver.wait_for(Attached)
        link.detach()
        driver.wait_for(Detached)
    assert link.local.handle == 0
    driver.close()


def test_a_parked_connection_is_closed_and_one_with_empty_frames_is_not(connect: Connect) -> None:
    """The control is what every client without a timer of its own goes through."""
    parked, kept = connect(), connect(idle_timeout=1)
    for each in (parked, kept):
        each.open()
    parked.keeps_alive = False
    parked.sock.settimeout(0.001)
    ends = time.monotonic() + 60
    while not parked.connection.closed:
        assert time.monotonic() < ends
        parked.step(0.01)
        kept.step(0.5)
    (closed,) = parked.events
    assert isinstance(closed, Closed)
    assert closed.origin is Origin.PEER
    assert closed.error is not None
    assert closed.error.condition == "amqp:resource-limit-exceeded"
    assert closed.error.description == "no frame received from client within idle timeout threshold"
    # It asked for an empty frame a second, and got them.
    assert not kept.connection.closed
    address = declare(kept, "kept")
    sender = kept.sender(kept.begin(), Target(address))
    assert kept.outcome(sender.send(message(b"x"))) == Accepted()
    kept.close()


@pytest.mark.parametrize("other_broker", ["4.3"], indirect=True)
def test_the_newest_version(other_broker: Broker) -> None:
    """It has reply addresses, over which a reply comes without a queue."""
    address = (other_broker.host, other_broker.amqp_port)
    with (
        virtual_host(other_broker, f"test-{secrets.token_hex(6)}") as vhost,
        Driver.connect(address, connection(other_broker, vhost)) as driver,
    ):
        driver.open()
        queue = declare(driver, "newest")
        session = driver.begin()
        sender = driver.sender(session, Target(queue))
        assert driver.outcome(sender.send(message(b"x" * 300_000))) == Accepted()
        receiver = driver.receiver(session, Source(queue), credit=1)
        delivery = driver.wait_for(Received).delivery
        assert content(delivery) == b"x" * 300_000
        receiver.settle(delivery, Accepted())
        replies = driver.receiver(
            session,
            Source(
                dynamic=True, expiry_policy="link-detach", capabilities=("rabbitmq:volatile-queue",)
            ),
            credit=1,
            name="replies",
            snd_settle_mode=SETTLED,
        )
        assert replies.remote is not None
        assert replies.remote.source is not None
        anonymous = driver.sender(session, Target(), name="anonymous")
        reply = message(b"reply", properties=Properties(to=replies.remote.source.address))
        assert driver.outcome(anonymous.send(reply)) == Accepted()
        assert content(driver.wait_for(Received).delivery) == b"reply"
        driver.close()
