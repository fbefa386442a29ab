"""The cost of hbshim before it does anything: import time, and memory for each link."""

from __future__ import annotations

import gc
import statistics
import subprocess
import sys
import time
import tracemalloc
from typing import Any

import hbshim
from hbshim.bench.sinks import open_idle, running_sink

_LINKS = 200


def import_time(*, quick: bool) -> dict[str, Any]:
    """Milliseconds that ``import hbshim`` adds to a bare interpreter, in interleaved pairs."""
    pairs = 10 if quick else 30
    # -I would hide an editable installation; the same start-up is in both halves.
    extra = [_wall("import hbshim") - _wall("pass") for _ in range(pairs)]
    return {"pairs": pairs, "extra_ms": 1000 * statistics.median(extra)}


def _wall(code: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - begin


def memory() -> dict[str, Any]:
    """Bytes of Python memory that keeping one py-amqp connection alive adds."""
    with running_sink(60) as port:
        # From here, so that what hbshim replaces in a connection is subtracted.
        tracemalloc.start()
        connections = [open_idle(f"127.0.0.1:{port}", "guest", "guest", 60) for _ in range(_LINKS)]
        hbshim.keep_alive(connections[0], heartbeat_in_pthread=True)  # the engine itself
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for connection in connections[1:]:
            hbshim.keep_alive(connection, heartbeat_in_pthread=True)
        gc.collect()
        added = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        for connection in connections:
            connection.collect()
    return {"links": _LINKS - 1, "bytes_per_link": added / (_LINKS - 1)}
