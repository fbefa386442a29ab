"""The lateness of heartbeats, with the main thread idle, computing, or inside a hub.

Each condition runs in its own process, because patching cannot be undone:
``python -m hbshim.bench.lateness CONDITION SECONDS LINKS`` prints JSON. A check is due at T/2
without a byte sent; up to one slot early is intended (see ``hbshim.heartbeat.schedule.SLOT``).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import hbshim
from hbshim.bench.sinks import open_idle, running_sink
from hbshim.heartbeat.service import current
from hbshim.options import WorkerName

#: T of every connection here, in seconds.
TIMEOUT = 10
LINKS = 50


def run(*, quick: bool) -> list[dict[str, Any]]:
    """Measure every condition."""
    seconds = 2 * TIMEOUT if quick else 6 * TIMEOUT
    return [_in_fresh_process(condition, seconds) for condition in CONDITIONS]


def _in_fresh_process(condition: str, seconds: float) -> dict[str, Any]:
    argv = ["-W", "ignore", "-m", "hbshim.bench.lateness", condition, str(seconds), str(LINKS)]
    done = subprocess.run(
        [sys.executable, *argv], capture_output=True, text=True, timeout=seconds + 120, check=True
    )
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def _idle(seconds: float) -> None:
    time.sleep(seconds)


def _computing(seconds: float) -> None:
    end, total = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        for number in range(1000):
            total += number * number


def _inside_hub(seconds: float) -> None:
    import eventlet

    eventlet.sleep(seconds)


CONDITIONS: dict[str, Callable[[float], None]] = {
    "idle": _idle,
    "computing": _computing,
    "hub": _inside_hub,
    "hub-greenthread": _inside_hub,
}


def measure(condition: str, seconds: float, links: int) -> dict[str, Any]:
    """Keep `links` idle connections alive for `seconds` in this very process."""
    if condition.startswith("hub"):
        import eventlet

        eventlet.monkey_patch()
    worker: WorkerName = "greenthread" if condition == "hub-greenthread" else "pthread"
    with running_sink(TIMEOUT) as port:
        connections = [
            open_idle(f"127.0.0.1:{port}", "guest", "guest", TIMEOUT) for _ in range(links)
        ]
        for connection in connections:
            hbshim.keep_alive(connection, worker=worker)
        engine = current().engine(worker, forced=True)
        time.sleep(1)
        engine.lateness.clear()
        CONDITIONS[condition](seconds)
        lateness = sorted(engine.lateness)
        heartbeats = current().metrics.snapshot().get("heartbeats_sent", 0)
        for connection in connections:
            connection.collect()
    percentiles = statistics.quantiles(lateness, n=100, method="inclusive")
    return {
        "condition": condition,
        "worker": worker,
        "links": links,
        "checks": len(lateness),
        "heartbeats": heartbeats,
        "p50_ms": 1000 * percentiles[49],
        "p99_ms": 1000 * percentiles[98],
        "max_ms": 1000 * lateness[-1],
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))))  # noqa: T201
