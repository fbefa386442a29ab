"""Direct replies to a client that has lost its connection go to its own queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from hbshim.errors import ConnectionLostError, OptionError, PoolError
from hbshim.messaging.amqp import replies as module
from hbshim.messaging.amqp.options import AmqpOptions
from hbshim.messaging.amqp.replies import DirectReplies
from hbshim.messaging.amqp.topology import Topology
from hbshim.protocol.messages import DIRECT_REPLY, Message
from tests.waiting import wait_until

LIMIT = 30.0

TOPOLOGY = Topology(AmqpOptions())
OWN = TOPOLOGY.replies("client")


class Sender:
    """Reports of addresses what `there` contains."""

    def __init__(self, there: Callable[[str], bool]) -> None:
        self.there = there
        self.checked: list[str] = []
        self.sent: list[Message] = []

    def queue_exists(self, name: str, _deadline: float) -> bool:
        self.checked.append(name)
        return self.there(name)

    @property
    def connection(self) -> Sender:
        return self

    def with_connection(
        self, work: Callable[[Any], bool], _deadline: float, _attempts: int | None
    ) -> bool:
        return work(self)

    def send(self, message: Message, _deadline: float, _attempts: Any, *, resend: bool) -> None:
        assert resend
        self.sent.append(message)


def reply(name: str, body: bytes = b"1") -> Message:
    return Message(body, "", f"{DIRECT_REPLY}.{name}", correlation_id=f"client#{body.decode()}")


def settled(replies: DirectReplies) -> bool:
    return not replies._addresses


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_EVERY", 0.05)
    monkeypatch.setattr(module, "UNDER_WAY", 0.02)
    monkeypatch.setattr(module, "IDLE", 0.05)


def test_an_address_that_is_gone() -> None:
    sender = Sender(lambda name: name.endswith("alive"))
    replies = DirectReplies(sender)
    for name in ("alive", "gone"):
        for body in (b"1", b"2"):
            replies.sent(reply(name, body), "client", TOPOLOGY, time.monotonic() + LIMIT)
    wait_until(lambda: settled(replies), LIMIT)
    assert [(each.exchange, each.routing_key) for each in sender.sent] == [
        (OWN.exchange, OWN.routing_key)
    ] * 2
    assert [each.body for each in sender.sent] == [b"1", b"2"]


def test_one_that_goes_while_the_reply_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNDER_WAY", LIMIT)
    answers = iter([True, False])
    sender = Sender(lambda _name: next(answers))
    replies = DirectReplies(sender)
    replies.sent(reply("goes"), "client", TOPOLOGY, time.monotonic() + LIMIT)
    wait_until(lambda: settled(replies), LIMIT)
    assert len(sender.checked) == 2
    assert len(sender.sent) == 1


def test_many_replies_cost_few_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_EVERY", LIMIT)
    # A first check that comes late must not settle the first reply.
    monkeypatch.setattr(module, "UNDER_WAY", LIMIT)
    sender = Sender(lambda _name: True)
    replies = DirectReplies(sender)
    replies.sent(reply("alive"), "client", TOPOLOGY, time.monotonic() + LIMIT)
    wait_until(lambda: sender.checked, LIMIT)
    for _ in range(1000):
        replies.sent(reply("alive"), "client", TOPOLOGY, time.monotonic() + LIMIT)
    assert len(sender.checked) == 1


def test_many_bytes_are_not_kept_without_a_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_EVERY", LIMIT)
    monkeypatch.setattr(module, "KEPT", 10)
    monkeypatch.setattr(module, "UNDER_WAY", 0.0)
    sender = Sender(lambda _name: True)
    replies = DirectReplies(sender)
    replies.sent(reply("alive"), "client", TOPOLOGY, time.monotonic() + LIMIT)
    wait_until(lambda: sender.checked, LIMIT)
    replies.sent(reply("alive", b"12345678901"), "client", TOPOLOGY, time.monotonic() + LIMIT)
    replies.sent(reply("alive", b"12345678901"), "client", TOPOLOGY, time.monotonic() + LIMIT)
    wait_until(lambda: settled(replies), LIMIT)


def test_a_check_that_fails_is_repeated_while_the_client_waits() -> None:
    failing = threading.Event()
    failing.set()

    def there(_name: str) -> bool:
        if failing.is_set():
            raise ConnectionLostError("lost")
        return False

    sender = Sender(there)
    replies = DirectReplies(sender)
    replies.sent(reply("a"), "client", TOPOLOGY, time.monotonic() + LIMIT)
    replies.sent(reply("b"), "client", TOPOLOGY, time.monotonic())
    wait_until(lambda: len(sender.checked) >= 4, LIMIT)
    failing.clear()
    wait_until(lambda: settled(replies), LIMIT)
    assert [each.correlation_id for each in sender.sent] == ["client#1"]


def test_the_thread_ends_when_idle_and_starts_again() -> None:
    replies = DirectReplies(Sender(lambda _name: True))
    for _ in range(2):
        replies.sent(reply("alive"), "client", TOPOLOGY, time.monotonic() + LIMIT)
        wait_until(lambda: settled(replies), LIMIT)
        wait_until(lambda: replies._thread is None, LIMIT)


@pytest.mark.filterwarnings("error")
def test_a_check_that_fails_otherwise_does_not_end_the_others() -> None:
    errors = [OptionError("a certificate cannot be read")]

    def there(_name: str) -> bool:
        if errors:
            raise errors.pop()
        return True

    replies = DirectReplies(Sender(there))
    replies.sent(reply("a"), "client", TOPOLOGY, time.monotonic() + LIMIT)
    wait_until(lambda: settled(replies), LIMIT)
    assert not errors


def test_of_a_closed_driver_nothing_is_kept() -> None:
    def there(_name: str) -> bool:
        raise PoolError("closed")

    replies = DirectReplies(Sender(there))
    replies.sent(reply("a"), "client", TOPOLOGY, time.monotonic() + 100 * LIMIT)
    wait_until(lambda: settled(replies), LIMIT)
