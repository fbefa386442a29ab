"""The cost of one engine thread for many idle connections, as a share of one core.

The CPU time is the engine thread's own, from the kernel's schedstat. On loopback it includes the
kernel's delivery of each heartbeat to the peer's socket, which a real network card would do
elsewhere.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any
from urllib.parse import unquote, urlsplit

import hbshim
from hbshim.bench.limits import SPARE, raise_descriptor_limit
from hbshim.bench.sinks import open_idle, running_sink
from hbshim.errors import HbshimError
from hbshim.heartbeat.engine import Engine
from hbshim.heartbeat.service import current
from hbshim.heartbeat.state import State

#: T of every connection here, in seconds.
TIMEOUT = 10


def run(broker_url: str | None, *, quick: bool) -> list[dict[str, Any]]:
    """Measure 100, 800 and 10 000 links, the first two on the broker if there is one."""
    seconds = 2 * TIMEOUT if quick else 6 * TIMEOUT
    results = []
    for links in (100, 800, 10_000):
        on_broker = broker_url is not None and links <= 800
        results.append(measure(links, seconds, broker_url if on_broker else None))
    return results


def measure(links: int, seconds: float, broker_url: str | None) -> dict[str, Any]:
    """Keep `links` idle connections alive for `seconds`, and return the cost.

    Raises:
        HbshimError: this process may not open that many descriptors.
    """
    limit = raise_descriptor_limit()
    if limit < links + SPARE:
        raise HbshimError(
            f"{links} connections need more descriptors than the hard limit of {limit}; "
            f"raise it, for instance with: ulimit -Hn {links + SPARE}"
        )
    with contextlib.ExitStack() as stack:
        if broker_url is None:
            port = stack.enter_context(running_sink(TIMEOUT))
            address = (f"127.0.0.1:{port}", "guest", "guest")
        else:
            parts = urlsplit(broker_url)
            address = (
                f"{parts.hostname}:{parts.port or 5672}",
                unquote(parts.username or "guest"),
                unquote(parts.password or "guest"),
            )
        connections = []
        for _ in range(links):
            connection = open_idle(*address, TIMEOUT)
            stack.callback(connection.collect)
            hbshim.keep_alive(connection, heartbeat_in_pthread=True)
            connections.append(connection)
        return {
            "links": links,
            "peer": "sink" if broker_url is None else "broker",
            **_watch(current().engine("pthread"), connections, seconds),
        }


def _watch(engine: Engine, connections: list[Any], seconds: float) -> dict[str, Any]:
    links = [connection.transport.hbshim_link for connection in connections]
    # The first check of each link, and its drain, belong to its opening.
    time.sleep(TIMEOUT / 2)
    heartbeats = sum(link.heartbeats_sent for link in links)
    cpu, wall, wakeups = thread_cpu(engine), time.monotonic(), engine.wakeups
    time.sleep(seconds)
    cpu, wall = thread_cpu(engine) - cpu, time.monotonic() - wall
    return {
        "seconds": wall,
        "core_share": cpu / wall,
        "heartbeats": sum(link.heartbeats_sent for link in links) - heartbeats,
        "wakeups": engine.wakeups - wakeups,
        "lost": sum(link.state is not State.ALIVE for link in links),
    }


def thread_cpu(engine: Engine) -> float:
    """Seconds of CPU time that the engine's native thread has used so far."""
    native_id = getattr(engine.worker, "native_id", None)
    # proc(5): /proc/[pid]/task/[tid]/schedstat begins with nanoseconds on the CPU.
    with open(f"/proc/self/task/{native_id}/schedstat", encoding="ascii") as file:
        return int(file.read().split()[0]) / 1e9
