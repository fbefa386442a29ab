"""Peers that are slow, stingy or rude: what is sent to them fails in time, with the reason."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from hbshim import messaging
from hbshim.amqp1 import session
from hbshim.amqp1.connection import Connection
from hbshim.amqp1.events import AttachRequested, CreditChanged, Received, Updated
from hbshim.amqp1.messages import Message, Single, decode_message, encode_message
from hbshim.amqp1.performatives import (
    SENDER,
    Accepted,
    DeliveryState,
    Disposition,
    Error,
    Modified,
    Properties,
    Rejected,
    Released,
    Transfer,
)
from hbshim.amqp1.receiver import Receiver
from hbshim.amqp1.sasl import SaslServer
from hbshim.amqp1.sender import Sender
from hbshim.errors import (
    BrokerBlockedError,
    CallTimeoutError,
    ConfirmTimeoutError,
    ConnectError,
    ConnectionLostError,
    LostServerError,
    RejectedError,
    TopologyError,
    UnroutableError,
)
from hbshim.messaging.amqp1 import connection
from hbshim.messaging.amqp1.links import MOST_REPLIED
from tests.messaging.conftest import LIMIT
from tests.waiting import wait_until

HOST = "127.0.0.1"

TARGET = messaging.Target("topic")

Act = Callable[["Peer", object], None]


class Peer:
    """A peer that accepts connections, and answers as the test decides.

    Parameters:
        act: called with each event.

    Attributes:
        seen: how often it has seen each type of event.
    """

    def __init__(self, act: Act) -> None:
        self.seen: Counter[str] = Counter()
        self._act = act
        self._sock = socket.create_server((HOST, 0))
        self.port: int = self._sock.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                accepted, _ = self._sock.accept()
                threading.Thread(target=self._serve, args=(accepted,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        login = SaslServer(["ANONYMOUS"], lambda _mechanism, _response: True)
        engine = Connection("peer", server=True, sasl=login, properties={"product": "odd-router"})
        with sock, suppress(OSError):
            while data := sock.recv(1 << 16):
                for event in engine.receive_data(data, time.monotonic()):
                    self.seen[type(event).__name__] += 1
                    self._act(self, event)
                sock.sendall(engine.data_to_send(time.monotonic()))

    def close(self) -> None:
        self._sock.close()


def well_behaved(_peer: Peer, event: object) -> None:
    """Accept everything, and give credit."""
    if isinstance(event, AttachRequested):
        event.link.accept()
        if isinstance(event.link, Receiver):
            event.link.grant(100)


def silent(_peer: Peer, _event: object) -> None:
    """Answer no link."""


def stingy(_peer: Peer, event: object) -> None:
    """Give no credit."""
    if isinstance(event, AttachRequested):
        event.link.accept()


def rude(_peer: Peer, event: object) -> None:
    """Accept each link, and detach it at once."""
    if isinstance(event, AttachRequested):
        event.link.accept()
        event.link.detach(Error("amqp:internal-error", "not today"))


def answering(*states: object) -> Act:
    """Give each message these states; the last one settles it."""

    def act(peer: Peer, event: object) -> None:
        well_behaved(peer, event)
        if isinstance(event, Received):
            for state in states[:-1]:
                event.link.update(event.delivery, state)  # type: ignore[arg-type]
            event.link.settle(event.delivery, states[-1])  # type: ignore[arg-type]

    return act


@contextmanager
def connected(act: Act, query: str = "") -> Iterator[tuple[Peer, messaging.Driver]]:
    peer = Peer(act)
    driver = messaging.connect(f"hbamqp://{HOST}:{peer.port}/{query}")
    try:
        yield peer, driver
    finally:
        driver.close()
        peer.close()


PAYLOAD = messaging.Payload(b"{}")


@pytest.mark.parametrize("act", [silent, stingy], ids=["no link", "no credit"])
def test_a_peer_that_accepts_no_message(act: Act) -> None:
    with connected(act) as (peer, driver):
        began = time.monotonic()
        with pytest.raises(CallTimeoutError, match=r"was not sent|did not deliver"):
            driver.call(TARGET, PAYLOAD, 0.5)
        with pytest.raises((BrokerBlockedError, ConnectError)):
            driver.cast(TARGET, PAYLOAD, 0.5)
        if act is silent:
            assert not driver.listen(TARGET).open(0.5)
        assert time.monotonic() - began < LIMIT / 4
        # Nothing of it waits for credit that comes later.
        assert peer.seen["Received"] == 0
        assert peer.seen["AttachRequested"] <= 4


def test_casts_that_are_not_confirmed_do_not_wait_for_credit_beyond_their_timeout() -> None:
    links: list[Receiver] = []

    def act(peer: Peer, event: object) -> None:
        """Give credit for three messages."""
        if isinstance(event, AttachRequested):
            event.link.accept()
            if isinstance(event.link, Receiver):
                event.link.grant(0 if links else 3)
                links.append(event.link)

    with connected(act, "?cast_confirm=false") as (peer, driver):
        for _ in range(3):
            driver.cast(TARGET, PAYLOAD, LIMIT)
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(BrokerBlockedError, match=r"gives no credit.*nothing was sent"):
                driver.cast(TARGET, PAYLOAD, 0.5)
            assert time.monotonic() - began < LIMIT / 2
        assert peer.seen["Received"] == 3


def test_a_receiver_that_takes_nothing_does_not_hold_up_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The links of a connection, with their credit, are those of all receivers."""
    monkeypatch.setattr(connection, "MOST_UNCONFIRMED", 5)
    kept: list[Received] = []
    takes = threading.Event()

    def act(peer: Peer, event: object) -> None:
        well_behaved(peer, event)
        if not isinstance(event, Received):
            return
        properties = decode_message(event.delivery.payload).properties
        assert properties is not None
        if str(properties.to).endswith("slow") and not takes.is_set():
            kept.append(event)
            return
        for each in (*kept, event):
            each.link.settle(each.delivery, Accepted())
        kept.clear()

    with connected(act, "?cast_confirm=false") as (peer, driver):
        slow = messaging.Target("slow")
        for _ in range(5):
            driver.cast(slow, PAYLOAD, LIMIT)
        with pytest.raises(BrokerBlockedError, match=r"5 messages to \S+slow .*nothing was sent"):
            driver.cast(slow, PAYLOAD, 0.5)
        for _ in range(10):
            driver.cast(TARGET, PAYLOAD, LIMIT)
        # One whose sender waits for its outcome is no part of that.
        with pytest.raises(ConfirmTimeoutError):
            driver.cast(slow, PAYLOAD, 0.5, mandatory=True)
        takes.set()
        driver.cast(TARGET, PAYLOAD, LIMIT)
        for _ in range(10):
            driver.cast(slow, PAYLOAD, LIMIT)
        wait_until(lambda: peer.seen["Received"] == 27, LIMIT)


@pytest.mark.parametrize("window", [0, 3])
def test_a_peer_whose_window_stays_closed(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the beginning, or in the middle of a message, which then ends with its connection."""
    monkeypatch.setattr(session, "INCOMING_WINDOW", window)

    def send_flow(of: session.Session, **fields: Any) -> None:
        if "handle" in fields:
            unchanged(of, **fields)

    unchanged = session.Session.send_flow
    monkeypatch.setattr(session.Session, "send_flow", send_flow)
    with connected(answering(Accepted())) as (peer, driver):
        whole = messaging.Payload(b"x" * 1_000_000)
        with pytest.raises((BrokerBlockedError, ConnectionLostError), match="in time"):
            driver.cast(TARGET, whole, 0.5)
        assert not peer.seen["Received"]
        if window:
            driver.cast(TARGET, PAYLOAD, LIMIT)
            wait_until(lambda: peer.seen["Received"] == 1, LIMIT)


def test_a_peer_that_detaches_every_link() -> None:
    with connected(rude) as (peer, driver):
        for send in (driver.call, driver.cast):
            with pytest.raises((TopologyError, CallTimeoutError), match="not today"):
                send(TARGET, PAYLOAD, 1)
        assert peer.seen["AttachRequested"] < 100


def test_a_server_that_dies_after_it_has_begun() -> None:
    with connected(answering(Accepted(), Modified(delivery_failed=True))) as (_, driver):
        with pytest.raises(LostServerError, match="may have run"):
            driver.call(TARGET, PAYLOAD, LIMIT)
        driver.cast(TARGET, PAYLOAD, LIMIT)


def test_a_server_that_dies_before_it_has_begun() -> None:
    """It is sent again and marked, by which its next receiver knows."""
    with connected(answering(Modified(delivery_failed=True))) as (peer, driver):
        with pytest.raises(ConfirmTimeoutError, match="may have handled it"):
            driver.cast(TARGET, PAYLOAD, 0.5)
        assert 2 <= peer.seen["Received"] < 100


def test_a_server_that_refuses_a_copy() -> None:
    copy = Rejected(Error("hbshim:may-have-run", "another server has received it"))
    with connected(answering(copy)) as (peer, driver):
        with pytest.raises(LostServerError):
            driver.call(TARGET, PAYLOAD, LIMIT)
        driver.cast(TARGET, PAYLOAD, LIMIT)
        assert peer.seen["Received"] == 2


def test_a_peer_that_rejects() -> None:
    with connected(answering(Rejected(Error("odd:reason", "not this one")))) as (_, driver):
        for send in (driver.call, driver.cast):
            with pytest.raises(RejectedError, match="not this one"):
                send(TARGET, PAYLOAD, LIMIT)


def test_a_call_whose_peer_accepts_and_never_answers() -> None:
    with (
        connected(answering(Accepted())) as (_, driver),
        pytest.raises(CallTimeoutError, match="not answered"),
    ):
        driver.call(TARGET, PAYLOAD, 0.5)


def undecided(state: DeliveryState) -> Act:
    """Give each message a state and settle none: their sender has to, in rcv-settle-mode second.

    There is credit for a message once the one before is settled, as at a router. A request is
    answered if the peer has a link for replies.
    """
    replies: list[Sender] = []

    def act(peer: Peer, event: object) -> None:
        if isinstance(event, AttachRequested):
            event.link.accept()
            if isinstance(event.link, Sender):
                replies.append(event.link)
            elif isinstance(event.link, Receiver):
                event.link.grant(MOST_REPLIED + 1)
        elif isinstance(event, Updated):
            if isinstance(event.link, Receiver):
                peer.seen["settled"] += event.delivery.settled
                event.link.grant(1)
        elif isinstance(event, Received):
            event.link.update(event.delivery, state)
            asked = decode_message(event.delivery.payload).properties
            if replies and asked is not None:
                answer = Properties(to=asked.reply_to, correlation_id=asked.correlation_id)
                replies[0].send(encode_message(Message(Single("{}"), properties=answer)))

    return act


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (Accepted(), None),
        (Released(), UnroutableError),
        (Rejected(), RejectedError),
        (Modified(delivery_failed=True), ConfirmTimeoutError),
    ],
    ids=["accepted", "released", "rejected", "modified"],
)
def test_an_outcome_that_its_receiver_does_not_settle(
    state: DeliveryState, error: type[Exception] | None
) -> None:
    with connected(undecided(state)) as (peer, driver):
        if error is None:
            for _ in range(2 * MOST_REPLIED):
                driver.cast(TARGET, PAYLOAD, LIMIT)
        else:
            with pytest.raises(error):
                driver.cast(TARGET, PAYLOAD, 0.5)
        wait_until(lambda: peer.seen["settled"] == peer.seen["Received"], LIMIT)


def test_requests_that_their_server_never_settles() -> None:
    """They do not use up the credit, and nothing of them is kept for ever."""
    with connected(undecided(Accepted())) as (peer, driver):
        for _ in range(8 * MOST_REPLIED):
            driver.call(TARGET, PAYLOAD, LIMIT)
        left = 3 * MOST_REPLIED
        wait_until(lambda: peer.seen["Received"] - peer.seen["settled"] < left, LIMIT)


def test_a_link_for_replies_that_another_client_takes_over() -> None:
    """It is attached again, and not at once each time: the other client may do the same."""
    links: list[Sender] = []

    def steal(peer: Peer, event: object) -> None:
        well_behaved(peer, event)
        if isinstance(event, CreditChanged) and event.link not in links:
            links.append(event.link)
            event.link.detach(Error("amqp:link:stolen", "by another client"))

    with connected(steal) as (_, driver):
        with pytest.raises(CallTimeoutError):
            driver.call(TARGET, PAYLOAD, 1)
        assert 2 <= len(links) < 20


def cut_short(link: Sender, *frames: object) -> None:
    """Begin a message, and send something else in place of its end."""
    link.credit -= 1
    link.delivery_count += 1
    begun = Transfer(link.local.handle, link.session.next_delivery_id(), b"t", more=True)
    for each in (begun, *frames):
        link.session.send(each)
    link.session._transfers.next_id += 2  # type: ignore[attr-defined]


def aborted(link: Sender) -> None:
    """Give up a message, as a router does whose sender dies."""
    cut_short(link, Transfer(link.local.handle, aborted=True))


def settled_midway(link: Sender) -> None:
    """Settle a message before it is sent whole."""
    cut_short(link, Disposition(SENDER, 0, settled=True), Transfer(link.local.handle))


def returned(link: Sender) -> None:
    """Return the credit, for which the receiver has not asked."""
    link.delivery_count += link.credit
    link.credit = 0
    link.session.send_flow(**link.flow_fields())


def miscounted(value: object) -> Callable[[Sender], None]:
    """Send a message that says itself how often it was delivered before."""

    def send(link: Sender) -> None:
        headers = {"x-delivery-count": value}
        link.send(encode_message(Message(Single("{}"), application_properties=headers)))

    return send


@pytest.mark.parametrize(
    ("odd", "received"),
    [
        (aborted, 1),
        (settled_midway, 1),
        (returned, 1),
        (miscounted("often"), 2),
        (miscounted(-1), 2),
        (miscounted([1]), 2),
    ],
    ids=["aborted", "settled midway", "credit returned", "count text", "count < 0", "count list"],
)
def test_a_listener_goes_on_after_what_is_no_message(
    odd: Callable[[Sender], None], received: int
) -> None:
    """It has credit for one message, and gets another one."""
    links: list[Sender] = []

    def act(peer: Peer, event: object) -> None:
        well_behaved(peer, event)
        if isinstance(event, CreditChanged) and event.drain:
            event.link.drained()
        elif isinstance(event, CreditChanged) and event.credit:
            links.append(event.link)
            if event.link is links[0]:
                if links.count(event.link) == 1:
                    odd(event.link)
                else:
                    event.link.send(encode_message(Message(Single("{}"))))

    with connected(act) as (_, driver):
        listener = driver.listen(TARGET, 1)
        got: list[Any] = []
        while len(got) < received:
            (incoming,) = listener.poll(LIMIT)
            incoming.acknowledge()
            got.append(incoming)
        assert all(each.attempts == 0 for each in got)
