"""The contract of the drivers: what holds when all that stands between them is restarted."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from hbshim.errors import CallTimeoutError, MessagingError
from hbshim.messaging import Client, Driver, Request, Server, StoringDriver, Target
from tests.messaging.conftest import LIMIT, at_once
from tests.messaging.contract.laboratory import (
    Laboratory,
    opened,
    parameters,
    require_features,
)
from tests.messaging.endpoints import Endpoint
from tests.waiting import wait_until

Serve = Callable[..., Server]


@pytest.fixture(params=parameters())
def laboratory(request: pytest.FixtureRequest) -> Iterator[Laboratory]:
    """Each laboratory in turn; its :meth:`Laboratory.restart` may be called."""
    yield from opened(request, restarts=True)


def test_calls_that_run_are_answered_after_a_restart(
    laboratory: Laboratory, driver: Driver, target: Target, serve: Serve, endpoint: Endpoint
) -> None:
    serve(driver, target, endpoint, workers=8)
    client = Client(driver, target, timeout=4 * LIMIT)
    brief = client.prepare(timeout=5)
    timed_out = threading.Event()

    def time_out() -> None:
        with pytest.raises(CallTimeoutError):
            brief.call("hold", value="brief")
        timed_out.set()

    def restart() -> None:
        wait_until(lambda: set(range(5)) <= set(endpoint.asked), LIMIT)
        laboratory.restart()
        assert timed_out.wait(LIMIT)
        endpoint.release.set()

    calls = [lambda number=number: client.call("hold", value=number) for number in range(5)]
    assert at_once(*calls, time_out, restart, limit=4 * LIMIT) == [*range(5), None, None]
    assert client.call("echo", value="next") == "next"
    runs = Counter(endpoint.asked)
    assert runs.pop("brief", 0) <= 1
    assert runs == Counter([*range(5), "next"])


def test_what_is_stored_survives_a_restart(
    laboratory: Laboratory, storing: StoringDriver, target: Target, serve: Serve, endpoint: Endpoint
) -> None:
    require_features(storing, "survives_restart")
    storing.declare_queue(target)
    task = Client(storing, target, timeout=LIMIT).submit("echo", value="stored")
    laboratory.restart()
    serve(storing, target, endpoint)
    assert task.result(LIMIT) == "stored"
    assert storing.delete_queue(target) == 0


class Counting:
    """Counts how often each request is run."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()

    def work(self, request: Request) -> None:
        self.runs[request.message_id] += 1


def test_no_call_is_run_twice(laboratory: Laboratory, target: Target, serve: Serve) -> None:
    """Of servers that acknowledge first, whatever becomes of their connections."""
    over = threading.Event()
    answered: Counter[int] = Counter()
    counting = Counting()
    for _ in range(2):
        serve(laboratory.start(), target, counting, workers=2)
    client = Client(laboratory.start_uncut(), target, timeout=1)

    def caller(number: int) -> None:
        while not over.is_set():
            with contextlib.suppress(MessagingError):
                client.call("work")
                answered[number] += 1

    def wait_for_answers(count: int) -> None:
        before = answered.total()
        wait_until(lambda: answered.total() > before + count, LIMIT)

    def disturb() -> None:
        chance = random.Random()
        try:
            for _ in range(10):
                laboratory.cut()
                wait_for_answers(3)
                time.sleep(chance.uniform(0, 0.05))
            laboratory.restart()
            wait_for_answers(20)
        finally:
            over.set()

    callers = [lambda number=number: caller(number) for number in range(3)]
    assert at_once(disturb, *callers, progress=answered.total) == [None] * 4
    assert len(counting.runs) >= answered.total() > 50
    assert [found for found in counting.runs.most_common(3) if found[1] > 1] == []
