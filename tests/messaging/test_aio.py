"""`hbshim.messaging.aio` without a peer: the event loop, its threads, and drivers of all kinds."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from hbshim.errors import (
    CallTimeoutError,
    ConnectError,
    EventLoopError,
    MessagingError,
    OptionError,
    PoolTimeoutError,
)
from hbshim.messaging import aio
from hbshim.messaging.aio.home import Home
from hbshim.messaging.base import Payload, Reply
from hbshim.messaging.calling import CallRequest
from hbshim.messaging.capabilities import Capabilities
from hbshim.messaging.role import ReaderRole, Waiter
from hbshim.messaging.steps import Steps, Wait
from hbshim.messaging.target import Target
from hbshim.messaging.threads import Threads
from hbshim.messaging.waiting import PendingCalls
from tests.concurrency import needs_os_threads
from tests.interrupts import interrupt_everywhere
from tests.messaging.conftest import LIMIT
from tests.waiting import wait_until

pytestmark = needs_os_threads

TARGET = Target("topic")
NOTHING = Payload(b"null")


class PlainDriver:
    """A driver of another package, which knows nothing of steps."""

    rpc_timeout = LIMIT
    payload_limit = 1000
    capabilities = Capabilities()

    def __init__(self) -> None:
        self.release = threading.Event()
        self.cast_to: list[str] = []

    def call(self, _target: Target, payload: Payload, _timeout: float, **how: Any) -> Reply:
        if how.get("on_reply"):
            how["on_reply"](Reply("progress", Payload(b'"half"')))
        return Reply("result", Payload(b'"whole"'))

    def cast(self, target: Target, _payload: Payload, _timeout: float, **_how: Any) -> None:
        assert self.release.wait(LIMIT)
        self.cast_to.append(target.topic)

    def close(self) -> None:
        self.release.set()


class SteppedDriver(PlainDriver):
    """Its calls wait for replies that a test gives."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived = threading.Event()
        self.reads = 0
        self.role = ReaderRole(self._read)
        self.calls = PendingCalls(self.role)
        self.sent: list[str] = []
        self.replies: list[tuple[str, Reply]] = []

    def _read(self, until: float) -> bool:
        self.reads += 1
        self.arrived.wait(max(0.0, min(until - time.monotonic(), 0.5)))
        self.arrived.clear()
        replies, self.replies = self.replies, []
        for correlation, reply in replies:
            self.calls.receive(correlation, reply)
        return True

    def call_steps(self, request: CallRequest) -> Steps[Reply]:
        return self._call(request.deadline, request.on_reply)

    def _call(self, deadline: float, on_reply: Any) -> Steps[Reply]:
        call = self.calls.begin(on_reply)
        try:
            self.sent.append(call.correlation_id)
            return (yield from self.calls.wait_steps(call, deadline, None))
        finally:
            self.calls.end(call)

    def answer(self, *correlations: str) -> None:
        self.replies += [(each, Reply("result", Payload(b"1"))) for each in correlations]
        self.arrived.set()

    def close(self) -> None:
        super().close()
        self.role.close()
        self.arrived.set()


class News(Waiter):
    """Is never notified; what follows takes time."""

    @property
    def ready(self) -> bool:
        return False


def around(driver: Any, **how: Any) -> aio.Driver:
    return aio.Driver(driver, **how)


async def until(condition: Callable[[], object]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(wait(), LIMIT)


def test_all_that_arrives_in_one_iteration_costs_one_wakeup() -> None:
    async def main() -> None:
        home = Home.here()
        got: list[int] = []
        for first in (0, 1000):
            threads = [
                threading.Thread(target=lambda number=number: home.post(lambda: got.append(number)))
                for number in range(first, first + 1000, 10)
            ]
            for thread in threads:
                thread.start()
            # The loop does not run meanwhile.
            for thread in threads:
                thread.join()
            assert home.wakeups == 1 + first // 1000
            await until(lambda: len(got) == (first + 1000) // 10)  # noqa: B023

    asyncio.run(main())


def test_an_interrupt_between_two_replies_loses_none() -> None:
    async def main() -> None:
        home = Home.here()
        got: list[int] = []

        def interrupted() -> None:
            raise ValueError("here")

        home.loop.set_exception_handler(lambda _loop, _context: None)
        home.post(lambda: got.append(1))
        home.post(interrupted)
        home.post(lambda: got.append(2))
        await until(lambda: got == [1, 2])

    asyncio.run(main())


def test_replies_to_a_blocked_loop_cost_one_wakeup() -> None:
    beneath = SteppedDriver()

    async def main() -> None:
        async with around(beneath) as driver:
            calls = [
                asyncio.ensure_future(driver.call(TARGET, NOTHING, LIMIT)) for _ in range(1000)
            ]
            await until(lambda: len(beneath.sent) == 1000 and beneath.reads)
            ours = [each for each in threading.enumerate() if each.name.startswith("hbshim-aio")]
            assert len(ours) < 20
            await asyncio.sleep(0)
            before = driver.wakeups
            beneath.answer(*beneath.sent)
            # Blocks the loop.
            wait_until(lambda: not beneath.replies and driver.wakeups > before, LIMIT)
            wait_until(lambda: all(call.result for call in beneath.calls._calls.values()), LIMIT)
            assert driver.wakeups == before + 1
            assert len(await asyncio.gather(*calls)) == 1000
            assert len(beneath.calls) == 0

    asyncio.run(main())


def test_a_cancelled_call_leaves_nothing_and_its_late_reply_is_dropped() -> None:
    beneath = SteppedDriver()

    async def main() -> None:
        async with around(beneath) as driver:
            reported: list[Reply] = []
            calls = [
                asyncio.ensure_future(driver.call(TARGET, NOTHING, LIMIT, on_reply=reported.append))
                for _ in range(10)
            ]
            await until(lambda: len(beneath.calls) == 10 and len(beneath.sent) == 10)
            for call in calls:
                call.cancel()
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(each) for each in outcomes] == [asyncio.CancelledError] * 10
            await until(lambda: len(beneath.calls) == 0)
            last = asyncio.ensure_future(driver.call(TARGET, NOTHING, LIMIT))
            await until(lambda: len(beneath.sent) == 11)
            beneath.replies.append((beneath.sent[0], Reply("progress", NOTHING)))
            beneath.answer(*beneath.sent)
            assert (await last).payload.body == b"1"
            assert (beneath.calls.late, reported) == (11, [])

    asyncio.run(main())


def test_a_call_that_is_not_answered_ends_in_time() -> None:
    beneath = SteppedDriver()

    async def main() -> None:
        async with around(beneath) as driver:
            with pytest.raises(CallTimeoutError, match="not answered"):
                await driver.call(TARGET, NOTHING, 0.1)
            assert len(beneath.calls) == 0
            # However many sender threads are occupied.
            sending = [asyncio.ensure_future(driver.cast(TARGET, NOTHING, LIMIT)) for _ in range(8)]
            await asyncio.sleep(0)
            with pytest.raises(PoolTimeoutError, match="senders="):
                await driver.cast(TARGET, NOTHING, 0.1)
            with pytest.raises(CallTimeoutError, match="not answered"):
                await driver.call(TARGET, NOTHING, 0.1)
            beneath.release.set()
            await asyncio.gather(*sending)
            assert len(beneath.cast_to) == 8

    asyncio.run(main())


def test_a_cast_that_is_cancelled_in_its_queue_is_not_sent() -> None:
    beneath = PlainDriver()

    async def main() -> None:
        async with around(beneath, senders=1) as driver:
            first = asyncio.ensure_future(driver.cast(TARGET, NOTHING, LIMIT))
            second = asyncio.ensure_future(driver.cast(Target("second"), NOTHING, LIMIT))
            await until(lambda: driver._sending.count == 1)
            second.cancel()
            await asyncio.sleep(0)
            beneath.release.set()
            await first
            await driver.cast(Target("third"), NOTHING, LIMIT)
            assert beneath.cast_to == ["topic", "third"]

    asyncio.run(main())


def test_calls_that_wait_end_when_their_driver_is_closed() -> None:
    beneath = SteppedDriver()

    async def main() -> None:
        driver = around(beneath)
        calls = [asyncio.ensure_future(driver.call(TARGET, NOTHING, LIMIT)) for _ in range(10)]
        await until(lambda: len(beneath.sent) == 10)
        await driver.close()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {str(each) for each in outcomes} == {
            "the driver was closed while a call waited for its reply"
        }
        await until(
            lambda: (
                not [each for each in threading.enumerate() if each.name.startswith("hbshim-aio")]
            )
        )

    asyncio.run(main())


def test_a_driver_without_steps() -> None:
    beneath = PlainDriver()

    async def main() -> None:
        async with around(beneath) as driver:
            reported: list[Any] = []
            client = aio.Client(driver, TARGET, on_progress=reported.append)
            assert await client.call("any") == "whole"
            assert reported == ["half"]

    asyncio.run(main())


def test_each_loop_needs_a_driver_of_its_own() -> None:
    driver = around(PlainDriver())

    async def use() -> None:
        await driver.call(TARGET, NOTHING, LIMIT)

    asyncio.run(use())
    with pytest.raises(EventLoopError, match="opened on another event loop"):
        asyncio.run(use())
    with pytest.raises(EventLoopError, match="no event loop runs"):
        driver._here()


def test_no_senders_are_an_error() -> None:
    with pytest.raises(OptionError, match="senders must be at least 1, got 0"):
        aio.connect("hbpika://localhost/", senders=0)


def test_threads_end_when_they_are_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hbshim.messaging.threads.IDLE", 0.05)
    threads, done = Threads("hbshim-aio-test", 3), threading.Semaphore(0)
    for _ in range(10):
        threads.submit(done.release)
    for _ in range(10):
        assert done.acquire(timeout=LIMIT)
    assert threads.count <= 3
    wait_until(lambda: threads.count == 0, LIMIT)
    threads.submit(done.release)
    assert done.acquire(timeout=LIMIT)


@pytest.mark.parametrize("library", ["eventlet", "gevent"])
def test_where_the_standard_library_is_patched_it_is_refused(library: str) -> None:
    patch = {
        "eventlet": "import eventlet; eventlet.monkey_patch()",
        "gevent": "from gevent import monkey; monkey.patch_all()",
    }[library]
    code = f"""
import warnings
warnings.simplefilter("ignore")
{patch}
from hbshim.errors import EventLoopError
from hbshim.messaging import aio
try:
    aio.connect("hbpika://localhost/")
except EventLoopError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert f"{library} has patched them in this process; use hbshim.messaging," in done.stdout


@pytest.mark.parametrize("reports", [False, True], ids=["sent", "reported"])
def test_what_is_late_when_it_begins_to_wait_ends_at_once(reports: bool) -> None:
    """Its timer has run out while a thread, or the loop, was in it."""

    class Late(SteppedDriver):
        def _call(self, deadline: float, on_reply: Any) -> Steps[Reply]:
            call = self.calls.begin(on_reply)
            if reports:
                self.replies.append((call.correlation_id, Reply("progress", NOTHING)))
                self.arrived.set()
            else:
                time.sleep(0.1)
            try:
                return (yield from self.calls.wait_steps(call, deadline, None))
            finally:
                self.calls.end(call)

    async def main() -> None:
        def block(_reply: Reply) -> None:
            time.sleep(0.1)

        async with around(Late()) as driver:
            call = driver.call(TARGET, NOTHING, 0.05, on_reply=block)
            with pytest.raises(CallTimeoutError, match="not answered"):
                await asyncio.wait_for(call, LIMIT)

    asyncio.run(main())


def test_an_operation_that_needs_a_thread_to_end_ends_in_time_without() -> None:
    class Pausing(SteppedDriver):
        def _call(self, deadline: float, on_reply: Any) -> Steps[Reply]:
            self.sent.append("begun")
            if on_reply is not None:
                assert self.release.wait(LIMIT)
            yield Wait(None, News(), deadline, "paused")
            raise AssertionError("it was notified")

    beneath = Pausing()

    async def main() -> None:
        async with around(beneath) as driver:
            first = asyncio.ensure_future(driver.call(TARGET, NOTHING, 1))
            await until(lambda: beneath.sent)
            # Each occupies a thread.
            others = [
                asyncio.ensure_future(driver.call(TARGET, NOTHING, LIMIT, on_reply=print))
                for _ in range(4)
            ]
            with pytest.raises(CallTimeoutError, match="all threads that send calls wait"):
                await first
            for call in others:
                call.cancel()
            beneath.release.set()

    asyncio.run(main())


def test_where_no_thread_can_be_started_a_cancelled_operation_is_closed_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed: list[bool] = []

    class Pausing(SteppedDriver):
        def _call(self, deadline: float, on_reply: Any) -> Steps[Reply]:
            self.sent.append("begun")
            try:
                yield Wait(None, News(), deadline, "paused")
            finally:
                closed.append(True)
            raise AssertionError("it was notified")

    beneath = Pausing()

    def refuse(*_arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        async with around(beneath) as driver:
            call = asyncio.ensure_future(driver.call(TARGET, NOTHING, LIMIT))
            await until(lambda: beneath.sent)
            with monkeypatch.context() as patched:
                patched.setattr(Threads, "submit", refuse)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
            assert closed == [True]

    asyncio.run(main())


def test_calls_of_a_loop_that_was_closed_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hbshim.messaging.reading.LATE", 0.1)
    monkeypatch.setattr("hbshim.messaging.reading.IDLE", 0.1)
    beneath, loop = SteppedDriver(), asyncio.new_event_loop()
    driver = around(beneath)
    calls = [loop.create_task(driver.call(TARGET, NOTHING, 0.5)) for _ in range(3)]

    async def begin() -> None:
        await until(lambda: len(beneath.sent) == 3)

    loop.run_until_complete(begin())
    loop.close()
    wait_until(lambda: len(beneath.calls) == 0, LIMIT)
    wait_until(lambda: driver._readers[beneath.role].thread is None, LIMIT)
    assert not any(call.done() for call in calls)
    for call in calls:
        call._log_destroy_pending = False  # type: ignore[attr-defined]


def test_a_pause_needs_no_thread() -> None:
    """An operation that waits for a later attempt occupies no sender."""

    class Pausing(SteppedDriver):
        def _call(self, deadline: float, on_reply: Any) -> Steps[Reply]:
            self.sent.append("first")
            flag = self.calls.begin(on_reply)
            try:
                yield Wait(None, flag, time.monotonic() + 0.05, "")
            except CallTimeoutError:
                self.sent.append("second")
            return Reply("result", Payload(b"2"))

    beneath = Pausing()

    async def main() -> None:
        async with around(beneath) as driver:
            calls = [driver.call(TARGET, NOTHING, LIMIT) for _ in range(100)]
            replies = await asyncio.gather(*calls)
            assert {each.payload.body for each in replies} == {b"2"}
            assert beneath.sent.count("second") == 100

    asyncio.run(main())


class EarlyDriver(SteppedDriver):
    """Reports arrive while a thread still sends the request."""

    def _call(self, deadline: float, on_reply: Any) -> Steps[Reply]:
        call = self.calls.begin(on_reply)
        try:
            for number in (b"1", b"2"):
                self.calls.receive(call.correlation_id, Reply("progress", Payload(number)))
            self.sent.append(call.correlation_id)
            return (yield from self.calls.wait_steps(call, deadline, None))
        finally:
            self.calls.end(call)


class ReportingDriver(PlainDriver):
    """Its calls report, and wait for `release`."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Target] = []

    def call(self, _target: Target, payload: Payload, _timeout: float, **how: Any) -> Reply:
        for number in (b"1", b"2"):
            how["on_reply"](Reply("progress", Payload(number)))
        self.sent.append(_target)
        assert self.release.wait(LIMIT)
        return Reply("result", payload)


@pytest.mark.parametrize("kind", [EarlyDriver, ReportingDriver])
def test_progress_is_reported_on_the_event_loop_whatever_thread_receives_it(
    kind: Callable[[], Any],
) -> None:
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request")

    async def main() -> None:
        reported: list[Any] = []

        def on_progress(value: Any) -> None:
            reported.append((value, threading.current_thread(), request.get()))
            if len(reported) == 2:
                raise ValueError("of the callback")

        request.set("of the caller")
        beneath = kind()
        async with around(beneath) as driver:
            client = aio.Client(driver, TARGET, timeout=LIMIT, on_progress=on_progress)
            with pytest.raises(ValueError, match="of the callback"):
                await client.call("any")
            here = threading.current_thread()
            assert reported == [(1, here, "of the caller"), (2, here, "of the caller")]
            call = asyncio.ensure_future(client.call("any"))
            await asyncio.sleep(0)
            # Blocks the loop.
            wait_until(lambda: len(beneath.sent) == 2, LIMIT)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            await asyncio.sleep(0.02)
            assert len(reported) == 2

    asyncio.run(main())


class Replies:
    """The replies to a request that are never received."""

    id = "request"

    def __init__(self) -> None:
        self.asked = 0

    def receive(self, timeout: float) -> Reply:
        self.asked += 1
        time.sleep(min(timeout, 0.5))
        if self.asked == 1:
            return Reply("result", Payload(b"1"))
        raise CallTimeoutError("no reply yet")

    def close(self) -> None: ...


def test_a_second_coroutine_waits_for_a_result_no_longer_than_it_wants() -> None:
    async def main() -> None:
        async with around(PlainDriver()) as driver:
            task = aio.Task(Replies(), aio.Client(driver, TARGET))
            first = asyncio.ensure_future(task.result(LIMIT))
            later = asyncio.ensure_future(task.result(LIMIT))
            await asyncio.sleep(0)
            with pytest.raises(CallTimeoutError, match="another coroutine waits"):
                await task.result(0.05)
            assert not first.done()
            assert list(await asyncio.gather(first, later)) == [1, 1]

    asyncio.run(main())


#: For arguments of types that are not accepted.
loose: Any = aio


async def wait_for_nothing(_value: Any) -> None: ...


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (partial(loose.Client, on_progress=wait_for_nothing), "on_progress must be a"),
        (partial(loose.Client, on_progress="x"), "on_progress must be a"),
        (partial(loose.Client, call_monitor_timeout="x"), "a timeout must be a number"),
        (lambda driver, _: loose.Client(driver, "topic"), "target must be a"),
        (lambda driver, _: loose.Client(driver.beneath, TARGET), "driver must be one of"),
        (lambda driver, _: loose.Server(driver.beneath, TARGET, []), "driver must be one of"),
        (lambda driver, _: loose.Notifier(driver.beneath, "topic", "me"), "driver must be one of"),
        (lambda driver, _: loose.Listener(driver.beneath, ["topic"]), "driver must be one of"),
        (lambda driver, _: loose.Listener(driver, ["topic"], prefetch="x"), "prefetch must"),
        (lambda driver, _: loose.Listener(driver, ["topic"], on_error="x"), "on_error must be a"),
        (partial(loose.Server, endpoints=[], on_error=wait_for_nothing), "on_error must be a"),
        (partial(loose.Server, endpoints=[], workers="8"), "workers must be at least 1"),
        (partial(loose.Server, endpoints=[], threads=None), "threads must be at least 1"),
        (
            lambda driver, _: loose.NotificationServer(driver, ["t"], [Sink([])], batch_size=1.5),
            "batch_size must be at least 1, got 1.5",
        ),
        (
            lambda *_: loose.connect("hbpika://localhost/", senders="4"),
            "senders must be at least 1",
        ),
        (lambda *_: loose.connect(None), "url must be text"),
    ],
)
def test_bad_arguments_are_one_error_where_they_are_given(
    make: Callable[[Any, Target], object], says: str
) -> None:
    with pytest.raises(OptionError, match=says):
        make(around(ListeningDriver(FakeListener())), TARGET)


def test_an_interrupted_post_does_not_keep_the_next_one_from_waking_the_loop() -> None:
    loop, got = asyncio.new_event_loop(), []
    home = Home(loop)

    def check() -> None:
        home.post(lambda: got.append("later"))
        loop.run_until_complete(until(lambda: "later" in got))
        got.clear()

    asyncios = (os.path.dirname(asyncio.__file__) + os.sep,)
    assert interrupt_everywhere(lambda: home.post(lambda: None), check, asyncios) > 2
    loop.close()


class FakeIncoming:
    """A message, and what becomes of it."""

    payload = Payload(b'{"method": "run", "args": {}}')
    expires = may_have_run = expects_reply = False
    priority = "info"
    attempts = 0

    def __init__(self, listener: FakeListener, payload: bytes = b"") -> None:
        self._listener = listener
        self.message_id = f"{id(self)}"
        if payload:
            self.payload = Payload(payload)

    def expired(self) -> bool:
        return False

    def acknowledge(self) -> bool:
        self._listener.ends.append("acknowledged")
        return True

    def requeue(self) -> None:
        self._listener.ends.append("requeued")

    def return_to_queue(self) -> None:
        self._listener.ends.append("returned")

    def reject(self, reason: str) -> None:
        raise AssertionError(reason)


class FakeListener:
    """Gives out so many messages; notes how it and they end."""

    def __init__(self, messages: int = 0, opening: Any = True) -> None:
        self.opening = opening
        self.ends: list[str] = []
        self.stopped, self.closed = threading.Event(), threading.Event()
        self.on_error: Any = None
        self._left = messages

    def open(self, _timeout: float) -> bool:
        opening, self.opening = self.opening, True
        if isinstance(opening, Exception):
            raise opening
        return bool(opening or self.stopped.wait(LIMIT))

    def poll(
        self, timeout: float | None = None, size: int = 1, _batch_timeout: Any = None
    ) -> list[Any]:
        count = min(size, self._left)
        self._left -= count
        if not count:
            self.stopped.wait(timeout)
        return [FakeIncoming(self, self.content) for _ in range(count)]

    content = b""

    def stop(self, _timeout: float = 0.0) -> None:
        self.stopped.set()

    def close(self, _timeout: float = 0.0) -> None:
        self.closed.set()


class ListeningDriver(PlainDriver):
    def __init__(self, listener: FakeListener) -> None:
        super().__init__()
        self.listener = listener

    def listen(self, *_where: Any, **_how: Any) -> FakeListener:
        return self.listener

    def listen_for_notifications(self, *_where: Any) -> FakeListener:
        return self.listener


class Sink:
    """Endpoints whose methods do as a test says."""

    def __init__(self, begun: list[float]) -> None:
        self.begun = begun
        self.act: Any = None

    async def info(self, _notification: Any) -> None:
        self.begun.append(time.monotonic())
        await self.act()

    def run(self, _request: Any) -> Any:
        self.begun.append(time.monotonic())
        return self.act()


def receiver(driver: aio.Driver, kind: str) -> Any:
    if kind == "Listener":
        return aio.Listener(driver, ["topic"])
    return aio.Server(driver, TARGET, [Sink([])])


@pytest.mark.parametrize("kind", ["Server", "Listener"])
def test_a_start_that_is_cancelled_leaves_no_listener(kind: str) -> None:
    """It would hold messages that nothing handles."""
    listener = FakeListener(opening=False)

    async def main() -> None:
        async with around(ListeningDriver(listener)) as driver:
            server = receiver(driver, kind)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(server.start(), 0.05)
            await until(listener.closed.is_set)
            with pytest.raises(MessagingError, match="create a new one"):
                await server.start()
            await server.stop()

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["Server", "Listener"])
def test_what_could_not_start_may_be_started_again(kind: str) -> None:
    listener = FakeListener(opening=ConnectError("refused", final=True))

    async def main() -> None:
        async with around(ListeningDriver(listener)) as driver:
            server = receiver(driver, kind)
            with pytest.raises(ConnectError):
                await server.start()
            assert await server.start()
            await server.stop()

    asyncio.run(main())


@pytest.mark.parametrize("acknowledge", ["before", "after"])
def test_what_waits_for_a_thread_does_not_begin_after_a_stop(
    acknowledge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hbshim.messaging.aio.serving.CANCEL_LIMIT", 0.1)
    listener = FakeListener(10)
    begun: list[float] = []
    errors: list[BaseException] = []
    release = threading.Event()

    async def main() -> None:
        async with around(ListeningDriver(listener)) as driver:
            sink = Sink(begun)
            sink.act = lambda: release.wait(LIMIT)
            server = aio.Server(
                driver,
                TARGET,
                [sink],
                workers=10,
                threads=1,
                acknowledge=acknowledge,
                on_error=errors.append,
            )
            await server.start()
            await until(lambda: begun and len(server._works) == 10)
            stopping = asyncio.ensure_future(server.stop(0))
            await until(lambda: len(server._works) == 1)
            assert not await stopping
            release.set()
            await until(lambda: not server._works)
            assert len(begun) == 1
            if acknowledge == "after":
                assert listener.ends.count("acknowledged") == 1
            else:
                assert [str(each)[:24] for each in errors] == ["the method was cancelled"] * 9

    asyncio.run(main())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python does not tell what was cancelled")
def test_a_method_that_raises_cancelled_error_by_itself_has_failed() -> None:
    """Its message would be given back, and come again at once, without an end."""
    listener = FakeListener(1)
    errors: list[BaseException] = []
    listener.content = (
        b'{"event_type": "e", "payload": 1, "publisher_id": "p", "message_id": "1",'
        b' "timestamp": "t"}'
    )

    async def main() -> None:
        async def act() -> None:
            raise asyncio.CancelledError

        async with around(ListeningDriver(listener)) as driver:
            sink = Sink([])
            sink.act = act
            server = aio.NotificationServer(driver, ["t"], [sink], on_error=errors.append)
            async with server:
                await until(lambda: listener.ends)
            assert listener.ends == ["requeued"]
            assert "what it awaited was cancelled" in str(errors[0])

    asyncio.run(main())


@pytest.mark.parametrize("through", ["itself", "wait_for", "task"])
def test_a_method_may_stop_its_server_through_another_task(through: str) -> None:
    listener, ended = FakeListener(1), []

    async def main() -> None:
        async with around(ListeningDriver(listener)) as driver:

            async def act() -> None:
                if through == "wait_for":
                    ended.append(await asyncio.wait_for(server.stop(), LIMIT))
                elif through == "task":
                    ended.append(await asyncio.create_task(server.stop()))
                else:
                    ended.append(await server.stop())

            sink = Sink([])
            sink.act = act
            server = aio.Server(driver, TARGET, [sink])
            await server.start()
            await until(lambda: ended == [True])
            await until(listener.closed.is_set)

    asyncio.run(main())


def test_a_child_process_of_a_method_can_be_terminated() -> None:
    """It inherits the signals that its thread blocks."""
    listener, codes = FakeListener(1), []

    def act() -> None:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        child.terminate()
        codes.append(child.wait(LIMIT))

    async def main() -> None:
        async with around(ListeningDriver(listener)) as driver:
            sink = Sink([])
            sink.act = act
            async with aio.Server(driver, TARGET, [sink]):
                await until(lambda: codes)

    asyncio.run(main())
    assert codes == [-signal.SIGTERM]
