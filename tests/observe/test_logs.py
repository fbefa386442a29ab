"""Events become log records, with fields, in the thread that asks for them."""

from __future__ import annotations

import itertools
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from hbshim.event_log import LEVELS, log_problems, not_logged_yet
from hbshim.heartbeat.service import current
from hbshim.metrics import Event, Metrics
from hbshim.observe import log_events
from tests.concurrency import MODEL as PROGRAM_MODEL
from tests.interrupts import interleave_everywhere
from tests.observe.conftest import CHECKOUT

MODEL = Path(__file__).with_name("logging_program.py")


def run(script: Path, model: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", script, model],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "EVENTLET_TESTS": "1"},
    )
    assert (done.returncode, done.stdout) == (0, "pass\n"), done.stderr
    return done.stderr


@pytest.mark.parametrize("model", ["native", "eventlet", "gevent"])
def test_a_death_is_logged_by_the_programs_own_thread(model: str) -> None:
    run(MODEL, model)


@pytest.mark.parametrize("model", ["native", "eventlet", "gevent"])
def test_a_problem_that_nothing_takes_is_logged_by_the_programs_own_thread(model: str) -> None:
    said = run(MODEL.with_name("default_log_program.py"), model)
    assert "peer-closed: " in said, "not visible without a configuration of logging"


def test_what_was_logged_already_is_not_repeated(caplog: pytest.LogCaptureFixture) -> None:
    log_events()
    caplog.set_level(logging.INFO, "hbshim")
    current().metrics.record("link-silent", "", "a problem")
    current().metrics.record("worker-moved", "", "no problem")
    log_problems(current().metrics)
    caplog.clear()
    assert log_events() == 2
    assert [vars(record)["hbshim_kind"] for record in caplog.records] == ["worker-moved"]


def test_events_that_were_logged_cost_the_next_call_nothing() -> None:
    """Drivers call it for each message, and a program may leave a thousand events there."""
    copies = 0

    class Counting(Metrics):
        def recorded(self) -> list[Event]:
            nonlocal copies
            copies += 1
            return super().recorded()

    metrics = Counting()
    log_problems(metrics)
    assert copies == 0
    metrics.record("worker-moved", "", "no problem")
    for _ in range(3):
        log_problems(metrics)
    assert copies == 1
    metrics.record("worker-moved", "", "another one")
    log_problems(metrics)
    assert copies == 2
    metrics.take_events()
    log_problems(metrics)
    assert copies == 2


class Connecting(logging.Handler):
    """Sends each record over a new connection, and each connection has a problem of its own."""

    def __init__(self, kind: str = "watch-failed") -> None:
        super().__init__()
        self.kind = kind
        self.connections = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.connections += 1
        assert self.connections < 20, "there is no end to it"
        current().metrics.record(self.kind, f"connection {self.connections}", "a problem")
        log_problems(current().metrics)


@pytest.fixture
def connecting() -> Iterator[Connecting]:
    log_problems(current().metrics)
    handler, logger = Connecting(), logging.getLogger("hbshim")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    log_events(logging.getLogger("tests.unheard"))


def test_a_log_handler_that_connects_is_not_called_by_its_own_connections(
    connecting: Connecting,
) -> None:
    current().metrics.record("watch-failed", "", "a problem")
    log_problems(current().metrics)
    assert connecting.connections == 1
    log_problems(current().metrics)
    assert connecting.connections == 2


def test_a_thread_that_sends_records_over_new_connections_gets_each_reason_once(
    connecting: Connecting,
) -> None:
    connecting.kind = "choice-warning"
    current().metrics.record("choice-warning", "connection 0", "a problem")
    for _ in range(5):  # each call takes up what the latest record's connection has recorded
        log_problems(current().metrics)
    assert connecting.connections == 1


def test_each_event_is_logged_once_with_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    log_events()
    before = time.time()
    current().metrics.record("worker-moved", "", "3 links moved")
    current().metrics.record("write-broken-off", "a:1 -> b:2", "100 % broken")
    caplog.set_level(logging.INFO, "hbshim")
    caplog.clear()
    assert log_events() == 2
    moved, broken = cast(list[Any], caplog.records)
    assert (moved.levelno, moved.getMessage()) == (logging.INFO, "worker-moved: 3 links moved")
    assert broken.levelno == logging.ERROR
    assert broken.getMessage() == "write-broken-off: 100 % broken (a:1 -> b:2)"
    assert broken.hbshim_kind == "write-broken-off"
    assert broken.hbshim_link == "a:1 -> b:2"
    assert broken.hbshim_detail == "100 % broken"
    assert before <= broken.hbshim_at <= time.time()
    assert log_events() == 0


def test_a_logger_of_the_applications_own(caplog: pytest.LogCaptureFixture) -> None:
    log_events()
    current().metrics.record("new-kind", "", "something")
    caplog.clear()
    assert log_events(logging.getLogger("billing.amqp")) == 1
    assert [(one.name, one.levelno) for one in caplog.records] == [
        ("billing.amqp", logging.WARNING)
    ]


def test_the_documented_kinds_are_those_that_are_recorded() -> None:
    page = (CHECKOUT / "docs" / "observing.md").read_text(encoding="utf-8")
    table = page.split("| kind | ")[1].split("\n\n")[0]
    rows = [row.split("`")[1] for row in table.splitlines()[2:]]
    documented = set(rows)
    assert len(documented) == len(rows), "one of them twice"
    code = "".join(path.read_text() for path in (CHECKOUT / "hbshim").rglob("*.py"))
    recorded = set(re.findall(r'\brecord(?:_once)?\(\s*"([a-z-]+)"', code))
    recorded |= set(re.findall(r'\bleave_alone\([^()]*(?:\(\w*\)[^()]*)*"([a-z-]+)"\)', code))
    assert len(recorded) > 10
    assert documented == recorded
    assert set(LEVELS) <= documented


@pytest.mark.skipif(PROGRAM_MODEL != "native", reason="threads that interleave anywhere")
def test_events_are_logged_in_one_thread_while_another_one_takes_them() -> None:
    errors: list[Exception] = []
    numbers = itertools.count()

    def prepare() -> tuple[Callable[[], object], Callable[[], object]]:
        metrics = Metrics()
        metrics.record("watch-failed", "", f"event {next(numbers)}")

        def take() -> None:
            try:
                not_logged_yet(metrics.recorded())
            except Exception as error:
                errors.append(error)

        return take, lambda: log_problems(metrics)

    assert interleave_everywhere(prepare, lambda: None, opcodes=True) > 10
    assert not errors
