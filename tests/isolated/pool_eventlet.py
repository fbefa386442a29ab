"""A pool made and used before eventlet patches serves green threads, and survives their end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hbshim.messaging.pool import Pool

early = Pool(lambda timeout: object(), lambda thing: None, lambda thing: False, max_size=1)
early.release(early.acquire())

import eventlet

eventlet.monkey_patch()

from tests.messaging.pool.green_ends import Green, check


def kill_on_arrival(green: Any, wake: Callable[[], object]) -> None:
    # It runs at the next switch, which `kill` does not wait for.
    wake()
    eventlet.kill(green)


check(Green(eventlet.spawn, eventlet.kill, kill_on_arrival, eventlet.sleep, eventlet.Timeout))

thing = early.acquire()
others = [early.acquire() for _ in range(10)]
waiter = eventlet.spawn(early.acquire, 30)
eventlet.sleep(0)
early.release(thing)
with eventlet.Timeout(30):
    assert waiter.wait() is thing

print("pass")
