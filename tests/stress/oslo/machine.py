"""How busy the machine is: a test that counts what happens within two seconds needs some of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

#: Of all processors; with less of it idle, a failure shows nothing about what was tested.
CALM = 0.1
_STAT = Path("/proc/stat")
_WINDOW = 1.0


class Times(NamedTuple):
    """Processor time since the machine started, of all processors, in ticks."""

    idle: int
    total: int


def now(stat: Path = _STAT) -> Times:
    """Return the times so far; see proc_stat(5). Time that a hypervisor took is not idle."""
    ticks = [int(text) for text in stat.read_text().split("\n", 1)[0].split()[1:9]]
    return Times(idle=ticks[3] + ticks[4], total=sum(ticks))


def idle_share(since: Times, until: Times) -> float:
    """Return which part of the processors' time was idle, from 0 to 1."""
    total = until.total - since.total
    return (until.idle - since.idle) / total if total > 0 else 1.0


def wait_until_calm(
    limit: float,
    *,
    times: Callable[[], Times] = now,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait for a calm second, for `limit` seconds at most; return whether there was one."""
    for _ in range(max(1, int(limit / _WINDOW))):
        since = times()
        sleep(_WINDOW)
        if idle_share(since, times()) >= CALM:
            return True
    return False
