"""A forked child of a server waits for none of its parent's threads."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from hbshim.messaging.amqp.listener import AmqpListener
from hbshim.messaging.consuming import Source
from hbshim.messaging.serving import Workers
from tests.concurrency import needs_os_threads
from tests.native_fork import fork_in_c

pytestmark = [
    needs_os_threads,
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]


def outcome_in_child(act: Callable[..., Any], fork: Callable[[], int]) -> int:
    pid = fork()
    if not pid:
        signal.alarm(10)
        os._exit(42 if act() else 43)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


@pytest.fixture
def listener() -> AmqpListener:
    nothing: Any = None
    return AmqpListener(
        connector=nothing,
        sender=nothing,
        topology=nothing,
        sources=[Source(lambda: nothing)],
        prefetch=1,
        acknowledge_first=False,
        retry_delay=1.0,
        retries=nothing,
    )


@pytest.fixture
def held(listener: AmqpListener) -> Iterator[None]:
    """Locks that a thread of the parent holds, and of which no thread of the child knows."""
    inside: Any = listener
    locks = [inside._polling._lock]
    taken, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        for lock in locks:
            lock.acquire()
        taken.set()
        let_go.wait(60)
        for lock in reversed(locks):
            lock.release()

    holding = threading.Thread(target=hold)
    holding.start()
    assert taken.wait(10)
    yield
    let_go.set()
    holding.join()


@pytest.mark.parametrize("fork", [os.fork, fork_in_c], ids=["os", "c"])
@pytest.mark.usefixtures("held")
def test_a_listener_that_a_child_inherited_answers_at_once(
    listener: AmqpListener, fork: Callable[[], int]
) -> None:
    def act() -> bool:
        listener.pause()
        listener.resume()
        opened, received = listener.open(5), listener.poll(5)
        listener.stop()
        listener.close()
        return not opened and received == []

    assert outcome_in_child(act, fork) == 42


@pytest.mark.parametrize("fork", [os.fork, fork_in_c], ids=["os", "c"])
def test_workers_that_a_child_inherited_are_not_waited_for(
    fork: Callable[[], int],
) -> None:
    working, let_go = threading.Event(), threading.Event()

    class Busy:
        on_error = None

        def open(self, timeout: int) -> bool:
            return True

        def poll(self, *_: object) -> list[str]:
            return [] if working.is_set() else ["message"]

        def stop(self, timeout: float | None = None) -> None:
            pass

        close = stop

    def work(_batch: object) -> None:
        working.set()
        let_go.wait(60)

    workers = Workers(cast(Any, Busy()), work, 1, lambda _: None)
    workers.start(1)
    assert working.wait(10)
    try:
        assert outcome_in_child(lambda: workers.stop(None), fork) == 42
    finally:
        let_go.set()
    assert workers.stop(10)
