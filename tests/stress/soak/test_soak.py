"""What remains is counted, a soak that leaves something fails, and a short one runs for real."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.stress.soak import report
from tests.stress.soak.__main__ import main
from tests.stress.soak.measure import Census
from tests.stress.soak.run import Setting, SoakReport, run
from wsgi_harness.stack.broker import Broker

# A fleet of processes on two cores.
pytestmark = pytest.mark.alone

T = 2
SETTING = Setting(seconds=6.0, cycles=150, connections=5, heartbeat=T)


def reported(**details: Any) -> str:
    return json.dumps({"at": 0.0, **details})


def census(phase: str, resident: int = 50 << 20, **left_over: int) -> str:
    rest = {"descriptors": 4, "threads": 2, "objects": {}, "left_over": left_over}
    return reported(kind="census", phase=phase, resident=resident, **rest)


def sample(
    phase: str = "endurance",
    lateness: float = 0.0,
    starved: float = 0.0,
    resident: int = 50 << 20,
    **counters: Any,
) -> str:
    figures = {"resident": resident, "descriptors": 4, "threads": 2, "links": 5, "cycles": 9}
    late = {"lateness": lateness, "starved": starved}
    return reported(kind="sample", phase=phase, counters=counters, **late, **figures)


def soak_report(*lines: str, end: bool = True) -> SoakReport:
    found = SoakReport("native-kombu")
    for line in [*lines, *([reported(kind="end")] if end else [])]:
        found.add(line)
    return found


def test_a_descriptor_a_thread_and_an_object_more_are_left_over() -> None:
    before = Census.take()
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    with socket.socket():
        thread.start()
        left = Census.take().left_over(before)
        over.set()
        thread.join()
    assert left["descriptors"] == left["threads"] == left["socket.socket"] == 1
    after = Census.take().left_over(before)
    assert "descriptors" not in after
    assert "socket.socket" not in after


CLEAN = [sample(), census("endurance"), census("second cycles")]
GROWING = [sample(resident=(50 + hour) << 20) for hour in range(20)]


#: What a link that went silent counts.
SILENT: dict[str, Any] = {"event:link-silent": 2}


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([*CLEAN[:2], census("second cycles", Link=3)], "remaining after second cycles: 3 Link"),
        ([*CLEAN[:2], census("second cycles", resident=90 << 20)], "its memory grew by 40960 KiB"),
        ([*GROWING, *CLEAN[1:]], "its memory grew by 10240 KiB while it endured"),
        ([sample(lateness=0.3), *CLEAN[1:]], "a check was 0.30 s late"),
        ([sample(**SILENT), *CLEAN[1:]], "2 events link-silent"),
    ],
)
def test_each_complaint(lines: list[str], complaint: str) -> None:
    (found,) = soak_report(*lines).complaints(SETTING)
    assert found.startswith(complaint)
    assert report.as_data([soak_report(*lines)], SETTING)["held"] is False
    assert complaint in report.render([soak_report(*lines)], SETTING)


def test_a_target_that_ended_early() -> None:
    (found,) = soak_report(*CLEAN, end=False).complaints(SETTING)
    assert found == "it ended early; see its log"


def test_no_complaints() -> None:
    starved = sample(lateness=0.3, starved=0.1)
    cycling = sample("second cycles", lateness=9.0)
    assert list(soak_report(*CLEAN, starved, cycling).complaints(SETTING)) == []


def test_a_short_soak_leaves_nothing_over(broker: Broker, tmp_path: Path) -> None:
    soak_reports = run(SETTING, broker)
    assert report.complaints(soak_reports, SETTING) == []
    for each in soak_reports:
        assert each.ended
        assert [*each.censuses] == ["warm-up", "first cycles", "endurance", "second cycles"]
        assert each.samples[-1]["cycles"] >= 2 * SETTING.cycles
        assert each.samples[-1]["counters"]["heartbeats_sent"] > 0
        assert max(sample["links"] for sample in each.samples) >= SETTING.connections
    page = report.write(soak_reports, SETTING, tmp_path)
    assert "<svg" in page.read_text()
    assert json.loads((tmp_path / "results.json").read_text())["held"] is True
    assert broker.password not in page.read_text() + (tmp_path / "results.json").read_text()


def test_bad_input_is_reported() -> None:
    assert CliRunner().invoke(main, ["--hours", "0"]).exit_code == 2
    answer = CliRunner().invoke(main, ["--report", "/proc/nowhere"])
    assert answer.exit_code == 3
    assert "/proc/nowhere" in answer.output
