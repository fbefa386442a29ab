"""Replies over a backend that does not take them."""

from __future__ import annotations

import threading
from typing import Any, cast

from hbshim.messaging.base import Payload, ReplyKind
from hbshim.messaging.hybrid.joint_listener import Member
from hbshim.messaging.hybrid.replying import MOST_LEFT, ReplyingMember
from tests.messaging.conftest import LIMIT
from tests.waiting import wait_until


class StuckRequest:
    """A request whose replies wait until its backend is back."""

    expires = True

    def __init__(self) -> None:
        self.is_back = threading.Event()
        self.sent: list[ReplyKind] = []

    def reply(self, payload: Payload, kind: ReplyKind = "result") -> None:
        assert self.is_back.wait(LIMIT)
        self.sent.append(kind)


class StuckListener:
    """A listener with some requests."""

    def __init__(self, requests: list[StuckRequest]) -> None:
        self._requests = requests

    def check(self, batch_size: int = 1) -> list[StuckRequest]:
        return self._requests

    def on_error(self, error: BaseException) -> None:
        raise error

    def close(self, timeout: float) -> None:
        """Nothing to close."""


def test_keepalives_that_wait_for_a_lost_backend_do_not_add_up() -> None:
    requests = [StuckRequest() for _ in range(20)]
    member = ReplyingMember(cast("Member[Any]", StuckListener(requests)))
    running = member.check()

    def keep_alive() -> None:
        for _ in range(MOST_LEFT):
            for each in running:
                each.reply(Payload(b""), "alive")

    # As the one thread that sends the keepalives of all backends.
    thread = threading.Thread(target=keep_alive, daemon=True)
    thread.start()
    thread.join(LIMIT)
    was_free = not thread.is_alive()
    for request in requests:
        request.is_back.set()
    wait_until(lambda: all(request.sent for request in requests), LIMIT)
    thread.join(LIMIT)
    member.close(LIMIT)

    assert was_free
    assert all(request.sent == ["alive"] for request in requests)


def test_keepalives_go_on_when_the_backend_is_back() -> None:
    request = StuckRequest()
    request.is_back.set()
    member = ReplyingMember(cast("Member[Any]", StuckListener([request])))
    (running,) = member.check()

    def send_another() -> bool:
        running.reply(Payload(b""), "alive")
        return len(request.sent) >= 3

    wait_until(send_another, LIMIT)
    member.close(LIMIT)

    assert set(request.sent) == {"alive"}
