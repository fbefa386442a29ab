"""A pool serves gevent's green threads, and survives their end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gevent import monkey

monkey.patch_all()

import gevent

from tests.messaging.pool.green_ends import Green, check


def spawn(function: Callable[..., object], *arguments: object) -> Any:
    started = gevent.spawn(function, *arguments)
    gevent.sleep(0)
    return started


def kill(green: Any) -> None:
    green.kill(block=False)


def kill_on_arrival(green: Any, wake: Callable[[], object]) -> None:
    # Both are done by the hub, in the order in which it is notified of them.
    kill(green)
    wake()


check(Green(spawn, kill, kill_on_arrival, gevent.sleep, gevent.Timeout.start_new))

print("pass")
