"""Runs the target side by side, listens to them, and reports whether anything remains."""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.stress.child import Child, clean_environment
from wsgi_harness.errors import HarnessError
from wsgi_harness.paths import build_dir
from wsgi_harness.stack.broker import Broker

#: Samples of a run, about; more would not be seen in a plot.
_SAMPLES = 600
#: A cycle takes some hundredths of a second, on a machine that does nothing else.
_CYCLE_LIMIT = 0.5
_OTHER_LIMIT = 120.0
#: Memory that a process may grow by. A link that is kept, with its client's connection, is far
#: above 1 KiB for each cycle; what the allocator keeps, some MiB, does not grow with cycles or
#: hours.
_GROWTH_A_CYCLE = 300.0
_GROWTH_AT_ALL = 8 * 1024 * 1024

MODELS = ("native", "eventlet")
LIBRARIES = ("kombu", "pika")


@dataclass(frozen=True)
class Setting:
    """What a run is made of.

    Attributes:
        seconds: of endurance, between two times `cycles`.
        connections: of each target while it endures.
        heartbeat: T in seconds.
    """

    seconds: float
    cycles: int
    connections: int
    heartbeat: int
    models: Sequence[str] = MODELS
    libraries: Sequence[str] = LIBRARIES
    shim: bool = True

    @property
    def limit(self) -> float:
        """Seconds after which a target that has not ended never will."""
        targets = len(self.models) * len(self.libraries)
        return self.seconds + 2 * self.cycles * _CYCLE_LIMIT * targets + _OTHER_LIMIT


@dataclass
class SoakReport:
    """What one target reported.

    Attributes:
        samples: while it lived; `at` in seconds since its beginning.
        censuses: at rest, by phase.
        ended: it lived to its end.
    """

    name: str
    samples: list[dict[str, Any]] = field(default_factory=list)
    censuses: dict[str, dict[str, Any]] = field(default_factory=dict)
    ended: bool = False
    _origin: float | None = None

    def add(self, line: str) -> None:
        """Take one line of the target standard output."""
        reported: dict[str, Any] = json.loads(line)
        kind = reported.pop("kind")
        if self._origin is None:
            self._origin = reported["at"]
        reported["at"] -= self._origin
        if kind == "sample":
            self.samples.append(reported)
        elif kind == "census":
            self.censuses[reported["phase"]] = reported
        else:
            self.ended = True

    def complaints(self, setting: Setting) -> Iterator[str]:
        """What must not be, one sentence each."""
        if not self.ended:
            yield "it ended early; see its log"
        for phase, census in self.censuses.items():
            for what, count in census["left_over"].items():
                yield f"remaining after {phase}: {count} {what}"
        allowed = _GROWTH_AT_ALL + _GROWTH_A_CYCLE * setting.cycles
        if self.growth_in_cycles > allowed:
            grown = self.growth_in_cycles / 1024
            yield f"its memory grew by {grown:.0f} KiB over the second cycles"
        if self.growth_in_endurance > _GROWTH_AT_ALL:
            grown = self.growth_in_endurance / 1024
            yield f"its memory grew by {grown:.0f} KiB while it endured"
        late = max((sample["lateness"] for sample in self._enduring), default=0.0)
        starved = max((sample["starved"] for sample in self._enduring), default=0.0)
        if late - starved > setting.heartbeat / 8:
            yield (
                f"a check was {late:.2f} s late, a thread without work {starved:.2f} s, "
                f"T/8 is {setting.heartbeat / 8:.2f} s"
            )
        if self.samples:
            counters = self.samples[-1]["counters"]
            for event in ("link-silent", "peer-closed", "check-failed"):
                if counters.get(f"event:{event}"):
                    yield f"{counters[f'event:{event}']} events {event} on a healthy network"

    @property
    def growth_in_cycles(self) -> int:
        """Bytes that the process at rest has grown by over the second cycles."""
        if not {"endurance", "second cycles"} <= set(self.censuses):
            return 0
        after, before = self.censuses["second cycles"], self.censuses["endurance"]
        return int(after["resident"] - before["resident"])

    @property
    def growth_in_endurance(self) -> int:
        """Bytes from the second quarter of the endurance to the last, each by its median.

        The connections' buffers have reached their size after the first quarter.
        """
        resident = [sample["resident"] for sample in self._enduring]
        quarter = len(resident) // 4
        if not quarter:
            return 0
        last, second = resident[-quarter:], resident[quarter : 2 * quarter]
        return int(statistics.median(last) - statistics.median(second))

    @property
    def _enduring(self) -> list[dict[str, Any]]:
        return [sample for sample in self.samples if sample["phase"] == "endurance"]


def run(
    setting: Setting, broker: Broker, advance: Callable[[float], None] = lambda seconds: None
) -> list[SoakReport]:
    """Let every target live; return what they reported.

    Parameters:
        broker: where they connect to.
        advance: called every second with how many seconds have passed.

    Raises:
        HarnessError: a target cannot be started.
    """
    logs = build_dir() / "soak"
    logs.mkdir(exist_ok=True)
    soak_reports, children = [], []
    with contextlib.ExitStack() as on_exit:
        for model in setting.models:
            for library in setting.libraries:
                soak_report = SoakReport(f"{model}-{library}")
                children.append(_start(soak_report, model, library, setting, broker, on_exit))
                soak_reports.append(soak_report)
        begin = time.monotonic()
        while any(child.prints for child in children):
            passed = time.monotonic() - begin
            if passed > setting.limit:
                break
            advance(passed)
            time.sleep(1.0)
    return soak_reports


def _start(
    soak_report: SoakReport,
    model: str,
    library: str,
    setting: Setting,
    broker: Broker,
    on_exit: contextlib.ExitStack,
) -> Child:
    log = on_exit.enter_context((build_dir() / "soak" / f"{soak_report.name}.log").open("wb"))
    child = Child(
        ["-m", "tests.stress.soak.target", model, library],
        on_line=soak_report.add,
        stderr=log,
        environment=clean_environment(PYTHONWARNINGS="ignore"),
    )
    on_exit.callback(child.kill)
    config = {
        "shim": setting.shim,
        "host": broker.host,
        "port": broker.amqp_port,
        "user": broker.user,
        "password": broker.password,
        "heartbeat": setting.heartbeat,
        "connections": setting.connections,
        "cycles": setting.cycles,
        "seconds": setting.seconds,
        "sample_every": max(0.5, setting.seconds / _SAMPLES),
    }
    try:
        child.send(config)
    except OSError:
        raise HarnessError(f"the target did not start; see {log.name}") from None
    return child
