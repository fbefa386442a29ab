"""Each worker's turns under gevent: in which thread, and what becomes of them when the hub stops.

The same is asked of a program that gevent has patched and of one that only uses its hub
(`gevent_workers_unpatched.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import gevent
import gevent.monkey

PATCHED = len(sys.argv) == 1
if PATCHED:
    gevent.monkey.patch_all()

import time

from hbshim.heartbeat.workers import WORKERS, Worker
from hbshim.options import WorkerName
from hbshim.runtime.unpatched import get_ident, original

HERE = get_ident()
native_sleep = original("time", "sleep")
EVERY = 0.05


def turns_of(worker: Worker) -> list[tuple[float, int]]:
    """Start `worker`; return the list that its turns go to, as (time, thread)."""
    turns: list[tuple[float, int]] = []

    def turn() -> float:
        turns.append((time.monotonic(), get_ident()))
        return time.monotonic() + EVERY

    worker.start(turn)
    return turns


def wait_until(condition: Callable[[], bool], sleep: Callable[[float], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        sleep(0.01)


def examine(name: WorkerName, in_this_thread: bool) -> None:
    worker = WORKERS[name]()
    turns = turns_of(worker)
    wait_until(lambda: len(turns) >= 5, gevent.sleep)
    assert {thread == HERE for _, thread in turns} == {in_this_thread}, name

    # Heartbeats do not count as work of the program: gevent.wait() returns without a timeout.
    assert gevent.wait(timeout=10), name
    before = len(turns)
    wait_until(lambda: len(turns) >= before + 3, gevent.sleep)

    # The hub stands still, parked or blocked: only the native thread goes on.
    before = len(turns)
    if name == "pthread":
        wait_until(lambda: len(turns) >= before + 3, native_sleep)
    else:
        native_sleep(10 * EVERY)
        # A turn that was in the pool already may end there.
        assert len(turns) <= before + 1, name

    # The hub runs again, and so do they.
    before = len(turns)
    wait_until(lambda: len(turns) >= before + 3, gevent.sleep)
    worker.stop()
    wait_until(lambda: not worker.running, gevent.sleep)


examine("pthread", in_this_thread=False)
examine("greenthread", in_this_thread=True)
examine("tpool", in_this_thread=False)

print("pass")
