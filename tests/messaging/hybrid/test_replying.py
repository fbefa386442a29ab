"""Replies over a backend that does not take them."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

import pytest

from hbshim.messaging import aio
from hbshim.messaging.base import Payload, ReplyKind
from hbshim.messaging.capabilities import Capabilities
from hbshim.messaging.hybrid.driver import HybridDriver
from hbshim.messaging.hybrid.joint_listener import Member
from hbshim.messaging.hybrid.replying import MOST_LEFT, ReplyingMember
from hbshim.messaging.joining import Part
from hbshim.messaging.target import Target
from tests.concurrency import needs_os_threads
from tests.messaging.conftest import LIMIT
from tests.waiting import wait_until


class StuckRequest:
    """A request whose replies wait until its backend is back."""

    expires = expects_reply = True
    may_have_run = False
    message_id = "1"
    payload = Payload(b'{"method": "run", "args": {}}')

    def __init__(self) -> None:
        self.is_back = threading.Event()
        self.sent: list[ReplyKind] = []

    def reply(self, payload: Payload, kind: ReplyKind = "result") -> None:
        assert self.is_back.wait(LIMIT)
        self.sent.append(kind)


class StuckListener:
    """A listener with some requests."""

    serves = True

    def __init__(self, requests: list[StuckRequest]) -> None:
        self._requests = requests
        self.closed = False

    def check(self, batch_size: int = 1) -> list[StuckRequest]:
        return self._requests

    def on_error(self, error: BaseException) -> None:
        raise error

    def open(self, _timeout: float) -> bool:
        return True

    def begin_wait(self, _part: Part) -> bool:
        return True

    def pause(self) -> None:
        """Nothing to pause."""

    def resume(self) -> None:
        """Nothing to resume."""

    def stop(self, timeout: float = 0.0) -> None:
        """Nothing to stop."""

    def close(self, timeout: float = 0.0) -> None:
        self.closed = True


class OneBackend:
    """A driver whose listener is given."""

    rpc_timeout = LIMIT
    payload_limit = 1000
    capabilities = Capabilities()

    def __init__(self, listener: StuckListener) -> None:
        self._listener = listener

    def listen(self, *_where: Any, **_how: Any) -> StuckListener:
        return self._listener

    def close(self) -> None:
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


class OneRequest(StuckListener):
    """Hands out its request once."""

    def check(self, batch_size: int = 1) -> list[StuckRequest]:
        requests, self._requests = self._requests, []
        return requests


class Endpoint:
    """Answers at once."""

    async def run(self, _request: Any) -> int:
        return 1


@needs_os_threads
@pytest.mark.parametrize("timeout", [None, LIMIT])
def test_an_asynchronous_server_that_stops_has_not_ended_before_its_replies(
    timeout: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hbshim.messaging.hybrid.replying.BRIEF", 0.01)
    monkeypatch.setattr("hbshim.messaging.aio.serving.CLOSE_LIMIT", 0.01)
    request = StuckRequest()
    listener = OneRequest([request])
    drivers: Any = OneBackend(listener), OneBackend(StuckListener([]))

    async def main() -> None:
        async with aio.Driver(HybridDriver(drivers[0], drivers[0], [drivers[1]])) as driver:
            server = aio.Server(driver, Target("topic", server="one"), [Endpoint()])
            await server.start()
            while listener._requests or server._works:
                await asyncio.sleep(0.01)
            stopping = asyncio.ensure_future(server.stop(timeout))
            while not server._stopped or server._receiving:
                await asyncio.sleep(0.01)
            await asyncio.wait([stopping], timeout=0.2)
            assert not listener.closed
            assert not stopping.done()
            request.is_back.set()
            assert await stopping
            assert request.sent == ["result"]

    asyncio.run(main())


@needs_os_threads
def test_an_asynchronous_server_whose_reply_cannot_be_sent_has_not_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hbshim.messaging.hybrid.replying.BRIEF", 0.01)
    request = StuckRequest()
    listener = OneRequest([request])
    drivers: Any = OneBackend(listener), OneBackend(StuckListener([]))

    async def main() -> None:
        async with aio.Driver(HybridDriver(drivers[0], drivers[0], [drivers[1]])) as driver:
            server = aio.Server(driver, Target("topic", server="one"), [Endpoint()])
            await server.start()
            while listener._requests or server._works:
                await asyncio.sleep(0.01)
            assert not await server.stop(0.2)
            assert listener.closed
            request.is_back.set()

    asyncio.run(main())
