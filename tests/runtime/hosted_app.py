"""The application that the real hosts run: it reports what hbshim sees from inside them.

The first request starts two clocks, a green thread and a native one. The second
reports how often each clock has run meanwhile, that is, whether the hub ran between
requests, independently of what hbshim believes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

if os.environ["HOSTED_PATCH"] == "eventlet":
    import eventlet

    eventlet.monkey_patch()
elif os.environ["HOSTED_PATCH"] == "gevent":
    import gevent.monkey

    gevent.monkey.patch_all()

from hbshim.runtime.detect import detect
from hbshim.runtime.unpatched import original, start_native_thread

TICK = 0.02
NATIVE_TICKS = 25

ticks = {"green": 0, "native": 0}
started: list[str] = []


def record(name: str, value: object) -> None:
    """Leave `value` where the test finds it, whole."""
    directory = Path(os.environ["HOSTED_DIRECTORY"])
    (directory / f"{name}.part").write_text(json.dumps(value))
    (directory / f"{name}.part").rename(directory / name)


def _tick_green(sleep: Callable[[float], object]) -> None:
    while True:
        sleep(TICK)
        ticks["green"] += 1


def _tick_native() -> None:
    sleep = original("time", "sleep")
    while ticks["native"] < NATIVE_TICKS:
        sleep(TICK)
        ticks["native"] += 1
    record("native-clock", ticks["native"])


def _start_clocks(library: str) -> None:
    if library == "eventlet":
        import eventlet

        eventlet.spawn(_tick_green, eventlet.sleep)
    elif library == "gevent":
        import gevent

        gevent.spawn(_tick_green, gevent.sleep)
    start_native_thread(_tick_native, lambda: None)
    started.append(library)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer every request with hbshim's report and the clocks' ticks so far."""
    report = detect().as_dict()
    answer = json.dumps({"report": report, "ticks": dict(ticks)}).encode()
    if not started:
        _start_clocks(report["green"]["library"])
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]


record("at-import", detect().as_dict())
