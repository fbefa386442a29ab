"""`hbshim.messaging.aio` over real peers: cancellation, loops, forks, and servers that end."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from hbshim import messaging
from hbshim.errors import CallTimeoutError, EventLoopError, MessagingError, RemoteError
from hbshim.messaging import aio
from tests.concurrency import needs_os_threads
from tests.messaging.conftest import LIMIT, unique
from tests.messaging.contract.laboratory import (
    Laboratory,
    extended,
    opened,
    parameters,
    require_features,
)
from tests.messaging.endpoints import Endpoint
from tests.waiting import wait_until

T = TypeVar("T")

pytestmark = needs_os_threads

CHECKOUT = Path(__file__).parents[3]


@pytest.fixture(params=[*parameters("hbpika"), *extended("hbkombu", "hbamqp", "hbzmq")])
def laboratory(request: pytest.FixtureRequest) -> Iterator[Laboratory]:
    """One of each kind."""
    yield from opened(request)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, T]], T]:
    """Run a coroutine on a loop of each kind."""
    if request.param == "asyncio":
        return asyncio.run
    uvloop = pytest.importorskip("uvloop")

    def run_on_uvloop(main: Coroutine[Any, Any, T]) -> T:
        loop = uvloop.new_event_loop()
        try:
            result: T = loop.run_until_complete(main)
            return result
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    return run_on_uvloop


def pending(driver: messaging.Driver) -> int:
    """Return how many calls wait for replies."""
    beneath: Any = driver
    if hasattr(beneath, "_callers") and (caller := beneath._callers.peek()):
        return len(caller.calls if hasattr(caller, "calls") else caller._calls)
    return 0


def ours() -> list[str]:
    """Return the threads of the package that tests."""
    return [each.name for each in threading.enumerate() if each.name.startswith("hbshim-aio")]


async def until(condition: Callable[[], object]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(wait(), LIMIT)


class Asynchronous:
    """Endpoints that are ``async def``, beside one that is not."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.asked: list[Any] = []
        self.running = self.most = 0
        self.release: asyncio.Event | None = None

    async def echo(self, _request: aio.Request, value: Any) -> Any:
        self.asked.append(value)
        return value

    async def hold(self, _request: aio.Request, value: Any = None) -> Any:
        self.asked.append(value)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            assert self.release is not None
            await self.release.wait()
        finally:
            self.running -= 1
        return value

    async def count(self, request: aio.Request, to: int) -> str:
        for number in range(to):
            await request.progress(number)
        return "counted"

    async def last(self, _request: aio.Request, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "at last"

    async def thread(self, _request: aio.Request) -> str:
        return threading.current_thread().name

    def worker(self, _request: messaging.Request) -> str:
        return threading.current_thread().name

    def later(self, _request: messaging.Request) -> Any:
        return asyncio.sleep(0, "later")

    async def fail(self, _request: aio.Request, kind: str) -> None:
        raise {
            "builtin": ValueError("a value", 7),
            "exit": SystemExit(3),
            "cancelled": asyncio.CancelledError(),
        }[kind]


def test_a_server_on_the_event_loop(
    run: Callable[[Any], Any], laboratory: Laboratory, target: messaging.Target
) -> None:
    endpoint = Asynchronous()

    async def main() -> None:
        endpoint.release = asyncio.Event()
        here = threading.current_thread().name
        async with (
            aio.connect(laboratory.url) as driver,
            aio.Server(driver, target, [endpoint], workers=20, on_error=lambda _error: None),
        ):
            client = aio.Client(driver, target, timeout=LIMIT)
            assert await client.call("echo", value=1) == 1
            reported: list[int] = []
            counting = client.prepare(on_progress=reported.append, call_monitor_timeout=LIMIT)
            assert await counting.call("count", to=3) == "counted"
            assert reported == [0, 1, 2]
            assert await client.call("thread") == here
            assert await client.call("worker") == "hbshim-aio-worker"
            assert await client.call("later") == "later"
            for kind, error in (
                ("builtin", ValueError),
                ("exit", RemoteError),
                ("cancelled", RemoteError),
            ):
                with pytest.raises(error):
                    await client.call("fail", kind=kind)
            with pytest.raises(TypeError, match="nothing"):
                await client.call("echo", nothing=1)
            # Its methods are bounded by an option, not by threads.
            held = [asyncio.ensure_future(client.call("hold", value=n)) for n in range(60)]
            await until(lambda: endpoint.running == 20)
            assert len([name for name in ours() if "worker" in name]) <= 8
            endpoint.release.set()
            assert await asyncio.gather(*held) == list(range(60))
            assert endpoint.most == 20
        await until(lambda: not ours())
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not others

    run(main())


def test_a_thousand_calls_at_once(
    run: Callable[[Any], Any], laboratory: Laboratory, target: messaging.Target
) -> None:
    async def main() -> None:
        async with (
            aio.connect(laboratory.url) as driver,
            aio.Server(driver, target, [Asynchronous()]),
        ):
            client = aio.Client(driver, target, timeout=2 * LIMIT)
            await client.call("echo", value=0)
            calls = [asyncio.ensure_future(client.call("echo", value=n)) for n in range(1000)]
            most = 0
            while not all(call.done() for call in calls):
                most = max(most, len(ours()))
                await asyncio.sleep(0.005)
            assert [call.result() for call in calls] == list(range(1000))
            # The threads that send, read, and reply; and the server's.
            assert most <= 4 + 8 + 1 + 4 + 8 + 1
            assert pending(driver.beneath) == 0

    run(main())


def test_a_cancelled_call_is_withdrawn(
    laboratory: Laboratory, serve: Callable[..., Any], target: messaging.Target
) -> None:
    endpoint = Endpoint()
    serve(laboratory.start_uncut(), target, endpoint, workers=20)

    async def main() -> None:
        async with aio.connect(laboratory.url) as driver:
            reported: list[Any] = []
            client = aio.Client(driver, target, timeout=LIMIT, on_progress=reported.append)
            calls = [asyncio.ensure_future(client.call("hold")) for _ in range(10)]
            await until(lambda: len(endpoint.asked) == 10)
            assert pending(driver.beneath) == 10
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)
            assert all(call.cancelled() for call in calls)
            await until(lambda: pending(driver.beneath) == 0)
            endpoint.release.set()
            # Also the replies to the others arrive.
            assert await client.call("count", to=2) == "counted"
            assert reported == [0, 1]

    asyncio.run(main())


def test_cancellations_at_random(
    laboratory: Laboratory, serve: Callable[..., Any], target: messaging.Target
) -> None:
    """Every call ends once, and every cast that was not cancelled arrives, once."""
    endpoint = Endpoint()
    serve(laboratory.start_uncut(), target, endpoint, workers=4)
    chance = random.Random(12)
    ends: Counter[str] = Counter()
    values: list[str] = []
    sent: list[str] = []

    async def one(client: aio.Client, value: str, is_cast: bool) -> None:
        try:
            if is_cast:
                await client.cast("echo", value=value)
                sent.append(value)
            else:
                values.append(await client.call("echo", value=value))
                assert values[-1] == value
        except asyncio.CancelledError:
            ends["cancelled"] += 1
            raise
        else:
            ends["done"] += 1

    async def cancel_later(task: asyncio.Task[None], seconds: float) -> None:
        await asyncio.sleep(seconds)
        task.cancel()

    async def main() -> None:
        async with aio.connect(laboratory.url) as driver:
            client = aio.Client(driver, target, timeout=2 * LIMIT)
            await client.call("echo", value="first")
            tasks: list[asyncio.Task[None]] = []
            cancelling: list[asyncio.Task[None]] = []
            for number in range(900):
                is_cast = number % 3 == 0
                tasks.append(asyncio.create_task(one(client, f"{number}", is_cast)))
                if chance.random() < 0.5:
                    delay = chance.choice((0.0, chance.random() * 0.5))
                    cancelling.append(asyncio.create_task(cancel_later(tasks[-1], delay)))
                if number % 50 == 0:
                    await asyncio.sleep(0.01)
            await asyncio.gather(*cancelling)
            await asyncio.gather(*tasks, return_exceptions=True)
            # What was cancelled before it ran has no end of its own.
            never = sum(task.cancelled() for task in tasks) - ends["cancelled"]
            assert ends["done"] + ends["cancelled"] + never == 900
            assert ends["done"] > 300
            assert sum(task.cancelled() for task in tasks) > 30
            await until(lambda: pending(driver.beneath) == 0)
            await until(lambda: set(sent) <= set(endpoint.asked))
            assert await client.call("echo", value="last") == "last"
        await until(lambda: not ours())
        assert max(Counter(endpoint.asked).values()) == 1

    asyncio.run(main())


def test_several_loops_in_several_threads(
    laboratory: Laboratory, serve: Callable[..., Any], target: messaging.Target
) -> None:
    serve(laboratory.start_uncut(), target, Endpoint(), workers=4)
    got: list[list[int]] = []

    async def main(number: int) -> None:
        async with aio.connect(laboratory.url) as driver:
            client = aio.Client(driver, target, timeout=LIMIT)
            calls = [client.call("echo", value=number * 100 + n) for n in range(50)]
            got.append(await asyncio.gather(*calls))

    threads = [threading.Thread(target=asyncio.run, args=(main(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert sorted(got) == [[n * 100 + m for m in range(50)] for n in range(4)]
    wait_until(lambda: not ours(), LIMIT)


def test_nothing_is_left_of_drivers_that_were_closed(
    laboratory: Laboratory, target: messaging.Target
) -> None:
    async def main() -> None:
        async with (
            aio.connect(laboratory.url) as driver,
            aio.Server(driver, target, [Asynchronous()]),
        ):
            client = aio.Client(driver, target, timeout=LIMIT)
            assert await client.call("echo", value=1) == 1
            await client.cast("echo", value=2)

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    asyncio.run(main())
    before = descriptors()
    for _ in range(3):
        asyncio.run(main())
    wait_until(lambda: descriptors() <= before, LIMIT)
    wait_until(lambda: not ours(), LIMIT)


def test_without_a_connection_calls_end_in_time(
    laboratory: Laboratory, target: messaging.Target
) -> None:
    laboratory.disconnect()

    async def main() -> None:
        async with aio.connect(laboratory.url) as driver:
            client = aio.Client(driver, target, timeout=0.5)
            began = time.monotonic()
            calls = [client.call("echo", value=n) for n in range(50)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(each) for each in outcomes} == {CallTimeoutError}
            assert time.monotonic() - began < LIMIT / 2
            casts = [client.cast("echo", value=n) for n in range(20)]
            for each in await asyncio.gather(*casts, return_exceptions=True):
                assert isinstance(each, MessagingError)
            assert time.monotonic() - began < LIMIT / 2

    asyncio.run(main())


def test_the_loop_is_closed_while_a_server_runs(
    laboratory: Laboratory,
    serve: Callable[..., Any],
    target: messaging.Target,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It reports that, and the next request goes to another server."""
    for module in ("reading", "threads"):
        monkeypatch.setattr(f"hbshim.messaging.{module}.IDLE", 0.1)
    errors: list[BaseException] = []
    endpoint = Asynchronous()

    async def main() -> messaging.Driver:
        endpoint.release = asyncio.Event()
        driver = aio.connect(laboratory.url)
        server = aio.Server(driver, target, [endpoint], on_error=errors.append)
        assert await server.start(LIMIT)
        client = aio.Client(driver, target, timeout=LIMIT)
        await client.cast("hold")
        await until(lambda: endpoint.running)
        return driver.beneath

    beneath = asyncio.run(main())
    wait_until(lambda: any(isinstance(error, EventLoopError) for error in errors), LIMIT)
    other = Endpoint("other")
    driver = laboratory.start_uncut()
    serve(driver, target, other)
    client = messaging.Client(driver, target, timeout=LIMIT)
    wait_until(lambda: client.call("who") == "other", LIMIT)
    beneath.close()
    wait_until(lambda: not ours(), LIMIT)


def test_a_stop_gives_back_what_has_not_ended(
    laboratory: Laboratory, target: messaging.Target
) -> None:
    first, second = Asynchronous("first"), Asynchronous("second")

    async def main() -> None:
        first.release, second.release = asyncio.Event(), asyncio.Event()
        async with aio.connect(laboratory.url) as driver, aio.connect(laboratory.url) as other:
            require_features(driver.beneath, "stores")
            server = aio.Server(driver, target, [first], workers=4, acknowledge="after")
            assert await server.start(LIMIT)
            client = aio.Client(other, target, timeout=2 * LIMIT)
            calls = [asyncio.ensure_future(client.call("hold", value=n)) for n in range(8)]
            await until(lambda: first.running == 4)
            assert not await server.stop(0.1)
            assert first.running == 0
            second.release.set()
            async with aio.Server(other, target, [second], acknowledge="after"):
                assert await asyncio.gather(*calls) == list(range(8))
            assert sorted(second.asked) == list(range(8))
            with pytest.raises(MessagingError, match="create a new one"):
                await server.start()

    asyncio.run(main())


def test_a_method_may_stop_its_server(laboratory: Laboratory, target: messaging.Target) -> None:
    async def main() -> None:
        async with aio.connect(laboratory.url) as driver:

            class Stopping:
                async def stop(self, _request: aio.Request) -> bool:
                    return await server.stop(LIMIT)

            server = aio.Server(driver, target, [Stopping()], workers=1)
            assert await server.start(LIMIT)
            assert await aio.Client(driver, target, timeout=LIMIT).call("stop") is True

    asyncio.run(main())


def test_notifications_in_a_loop(laboratory: Laboratory) -> None:
    topic = unique("events")

    async def main() -> None:
        async with aio.connect(laboratory.url) as driver:
            require_features(driver.beneath, "stores", "requeues")
            notifier = aio.Notifier(driver, topic, "here", timeout=LIMIT)
            await asyncio.gather(*(notifier.info("event", number) for number in range(5)))
            await notifier.error("event", "failed")
            got: list[Any] = []
            with pytest.raises(ValueError, match="not now"):
                async with aio.Listener(driver, [topic]) as listener:
                    async for notification in listener:
                        got.append(notification.payload)
                        if len(got) == 3:
                            raise ValueError("not now")
            again: list[Any] = []
            async with aio.Listener(driver, [topic]) as listener:
                async for notification in listener:
                    again.append(notification.payload)
                    if len(again) == 4:
                        break
                # A cancelled wait loses nothing.
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(anext(listener), 0.05)
                await notifier.info("event", "later")
                assert (await anext(listener)).payload == "later"
            # Acknowledged: the first two, and each of the second listener. The third was requeued.
            assert Counter(map(str, got[:2] + again)) == Counter(
                ["0", "1", "2", "3", "4", "failed"]
            )

    asyncio.run(main())


PROGRAM = """
import asyncio, os, signal, sys, threading, time
from hbshim import messaging
from hbshim.errors import EventLoopError
from hbshim.messaging import aio

URL, TARGET = os.environ["URL"], messaging.Target(sys.argv[1])

def left():
    until, names = time.monotonic() + 20, ["any"]
    while names and time.monotonic() < until:
        # The thread that closes has this to do after it has reported the end.
        time.sleep(0.01)
        names = [each.name for each in threading.enumerate() if each.name.startswith("hbshim-aio")]
    return names

async def use(name):
    async with aio.connect(URL) as driver:
        client = aio.Client(driver, TARGET, timeout=30)
        calls = [client.call("echo", value=f"{name}-{n}") for n in range(20)]
        assert await asyncio.gather(*calls) == [f"{name}-{n}" for n in range(20)]

async def interrupted():
    async with aio.connect(URL) as driver, aio.Server(driver, TARGET, [object()]):
        client = aio.Client(driver, TARGET.to(topic=TARGET.topic + "-none"), timeout=30)
        calls = [asyncio.ensure_future(client.call("none")) for _ in range(100)]
        asyncio.get_running_loop().call_later(0.2, os.kill, os.getpid(), signal.SIGINT)
        await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.sleep(30)
"""

PROGRAMS = {
    "forking": PROGRAM
    + """
async def main():
    driver = aio.connect(URL)
    client = aio.Client(driver, TARGET, timeout=30)
    assert await client.call("echo", value="before") == "before"
    return driver

loop = asyncio.new_event_loop()
driver = loop.run_until_complete(main())
child = os.fork()
if child == 0:
    status = 1
    try:
        asyncio.run(use("child"))
        try:
            asyncio.run(aio.Client(driver, TARGET).call("echo", value="inherited"))
        except EventLoopError:
            status = 0
    finally:
        os._exit(status)
_, status = os.waitpid(child, 0)
assert status == 0, status
assert loop.run_until_complete(aio.Client(driver, TARGET).call("echo", value="more")) == "more"
loop.run_until_complete(driver.close())
loop.close()
assert not left(), left()
print("done")
""",
    "interrupted": PROGRAM
    + """
try:
    asyncio.run(interrupted())
except KeyboardInterrupt:
    assert not left(), left()
    asyncio.run(use("again"))
    print("done")
""",
}


@pytest.mark.parametrize("program", ["forking", "interrupted"])
def test_a_program(
    program: str, laboratory: Laboratory, serve: Callable[..., Any], target: messaging.Target
) -> None:
    serve(laboratory.start_uncut(), target, Endpoint(), workers=4)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAMS[program], target.topic],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "URL": laboratory.url},
        capture_output=True,
        text=True,
        timeout=3 * LIMIT,
    )
    assert done.stdout == "done\n", done.stderr
