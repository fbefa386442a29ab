"""A program whose event loop is closed while a connection is open: it then has what it had before.

Usage: python -W ignore asyncio_closed_loop.py asyncio|uvloop, with the URL on standard input. In a
process of its own, because aiormq's coroutines complain when they are collected.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from typing import Any

import aio_pika
import uvloop

import hbshim
from hbshim.heartbeat import service
from hbshim.heartbeat.state import State
from hbshim.observe.loops import loops
from tests.waiting import wait_until

LOOPS: dict[str, Any] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}


def beside() -> tuple[int, int, int, int]:
    """Return the numbers of threads, descriptors, links and measured loops."""
    gc.collect()
    descriptors = len(os.listdir("/proc/self/fd"))
    return threading.active_count(), descriptors, len(service.current().links()), len(loops())


async def connect(url: str) -> Any:
    return await aio_pika.connect(url)


def leave_open(make: Any, url: str) -> None:
    loop = make()
    asyncio.set_event_loop(loop)
    connection = loop.run_until_complete(connect(url))
    link = connection.transport.connection.hbshim_link
    # Heartbeats need no loop that runs.
    sent = link.heartbeats_sent
    wait_until(lambda: link.heartbeats_sent > sent)
    asyncio.set_event_loop(None)
    loop.close()
    # Nothing can use the connection any more, though the program still refers to it: kept alive, it
    # would hold its messages.
    wait_until(lambda: link.state is State.CLOSED)
    assert connection.transport is not None


def main() -> None:
    make, url = LOOPS[sys.argv[1]], sys.stdin.read().strip()
    hbshim.install()
    leave_open(make, url)  # the first starts the heartbeat thread
    wait_until(lambda: beside()[2:] == (0, 0))
    before = beside()
    leave_open(make, url)
    wait_until(lambda: beside() == before, 20)


if __name__ == "__main__":
    main()
