"""Publish throughput with and without the guard, as a ratio.

Two publishers of each library, one kept alive and one not, alternate on one broker: on a noisy
machine only the ratio within a pair of bursts is meaningful.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

from hbshim.bench.publisher import BROKER_VARIABLE, LIBRARIES

PAIRS = 40
#: Messages of one timed burst: few enough to fit into the socket's buffers, so
#: that the broker's flow control is not what is measured.
MESSAGES = 100
#: Processes are started anew this often: where things happen to lie in memory
#: makes a difference of its own, of one or two per cent.
ROUNDS = 20


class Burst(NamedTuple):
    """Seconds of one burst: of the clock, and of CPU time of the publishing thread."""

    wall: float
    cpu: float


def run(broker_url: str, *, quick: bool) -> list[dict[str, Any]]:
    """Measure py-amqp, kombu and pika, and aio-pika where it is installed."""
    rounds = ROUNDS // 4 if quick else ROUNDS
    libraries = [each for each in LIBRARIES if each != "aio-pika" or find_spec("aio_pika")]
    return [compare(library, broker_url, rounds) for library in libraries]


def compare(library: str, url: str, rounds: int) -> dict[str, Any]:
    """The ratios kept / bare over interleaved pairs of bursts, in `rounds` pairs of processes.

    Of messages in a second, and of messages in a second of CPU time of the publishing thread.
    """
    ratios: list[float] = []
    cpu_ratios: list[float] = []
    rates: list[float] = []
    for _ in range(rounds):
        with _publisher(library, "bare", url) as bare, _publisher(library, "kept", url) as kept:
            # Both run before either works: a bare connection that waits for T is closed.
            for each in (bare, kept, kept, bare, bare, kept):
                _burst(each)  # warms up the interpreter's caches
            for pair in range(PAIRS):
                # The second burst of a pair finds a busier broker: alternate.
                if pair % 2:
                    of_bare, of_kept = _burst(bare), _burst(kept)
                else:
                    of_kept, of_bare = _burst(kept), _burst(bare)
                ratios.append(of_bare.wall / of_kept.wall)
                cpu_ratios.append(of_bare.cpu / of_kept.cpu)
                rates.append(MESSAGES / of_bare.wall)
    lower, middle, upper = statistics.quantiles(ratios, n=4)
    return {
        "library": library,
        "pairs": len(ratios),
        "ratio": middle,
        "lower_quartile": lower,
        "upper_quartile": upper,
        "cpu_ratio": statistics.median(cpu_ratios),
        "bare_per_second": statistics.median(rates),
    }


@contextlib.contextmanager
def _publisher(library: str, kind: str, url: str) -> Iterator[subprocess.Popen[str]]:
    # The URL holds a password: in the environment no `ps` shows it.
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "hbshim.bench.publisher", library, kind],
        env={**os.environ, BROKER_VARIABLE: url},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process


def _burst(process: subprocess.Popen[str]) -> Burst:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{MESSAGES}\n")
    process.stdin.flush()
    wall, cpu = process.stdout.readline().split()
    return Burst(float(wall), float(cpu))
