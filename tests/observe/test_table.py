"""The table at every width, and the live one in a real terminal."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hbshim.observe import listening
from hbshim.observe.answer import ProcessSeen, parse
from hbshim.observe.columns import age, lateness
from hbshim.observe.live import read_again
from hbshim.observe.table import Unanswered, render
from tests.concurrency import needs_os_threads
from tests.observe.conftest import CHECKOUT


def process(**links: Any) -> ProcessSeen:
    """An answer with links, each given by what differs from a good one."""
    document = json.loads(listening.answer())
    good = {
        "name": "10.20.130.139:51544 -> 10.20.130.141:5671",
        "peer": "10.20.130.141:5671",
        "state": "alive",
        "heartbeat_timeout": 60.0,
        "heartbeats_sent": 91211,
        "worker": "greenthread",
        "route": "plain",
        "sent_ago": 12.1,
        "received_ago": 28.0,
        "last_write_ago": 4000.0,
        "last_read_ago": 300.0,
    }
    document |= {
        "program": "gunicorn",
        "links": [{**good, **change} for change in links.values()],
        "links_in_all": len(links),
        "engines": [{"worker": "greenthread", "links": 1, "worst_lateness": 9.1}],
        "counters": {"event:link-silent": 2, "heartbeats_sent": 91211},
    }
    return parse(json.dumps(document).encode())


def shown(
    seen: list[ProcessSeen | Unanswered], width: int, height: int | None = None, color: bool = False
) -> list[str]:
    out = io.StringIO()
    console = Console(
        width=width, file=out, force_terminal=color, color_system="standard" if color else None
    )
    console.print(render(seen, width, height))
    return [line.rstrip() for line in out.getvalue().splitlines()]


IPV6 = {"peer": "2001:db8:85a3:8d3:1319:8a2e:370:7348:5671", "state": "hung"}


@pytest.mark.parametrize("width", [80, 90, 109, 110, 120, 200])
def test_nothing_but_the_address_is_ever_cut(width: int) -> None:
    lines = shown([process(a={}, b=IPV6)], width)
    assert all(len(line) <= width for line in lines)
    row = next(line for line in lines if line.endswith("hung"))
    assert "5671" in row
    for word in ("60s", "12s", "28s", "91211", "9.1s", "greenthread"):
        assert word in row
    ages = ["1h06m", "5m00s"] if width >= 110 else ["5m00s"]
    assert [word for word in row.split() if "m" in word] == ages


AMQP1 = {"protocol": "AMQP 1.0", "heartbeat_timeout": 30.0, "peer_timeout": 10.0}


@pytest.mark.parametrize("width", [80, 110])
@pytest.mark.parametrize(("wanted", "limits"), [(10.0, "30s/10s"), (None, "30s/-")])
def test_a_connection_of_amqp_1_0_has_two_limits(
    width: int, wanted: float | None, limits: str
) -> None:
    lines = shown([process(a={**AMQP1, "peer_timeout": wanted}, b={})], width)
    assert all(len(line) <= width for line in lines)
    (row,) = [line for line in lines if limits in line]
    assert ("AMQP 1.0" in row) is (width >= 110)
    (other,) = [line for line in lines if " 60s " in line]
    assert ("AMQP 0-9-1" in other) is (width >= 110)


def test_what_is_received_is_measured_by_what_this_side_wants() -> None:
    silent = {**AMQP1, "received_ago": 16.0}
    (row,) = [line for line in shown([process(a=silent)], 80, color=True) if "alive" in line]
    assert re.search(r"\x1b\[31m *16s", row)
    quiet = {**silent, "peer_timeout": None, "received_ago": 4000.0}
    (row,) = [line for line in shown([process(a=quiet)], 80, color=True) if "alive" in line]
    assert re.search(r"\x1b\[3[13]m *1h06m", row) is None


def test_those_in_trouble_come_first() -> None:
    seen = process(a={}, b={"state": "hung"}, c={"state": "lost"}, d={"state": "new-one"})
    states = [line.split()[-1] for line in shown([seen], 80)[2:6]]
    assert states == ["new-one", "lost", "hung", "alive"]


def test_what_does_not_fit_is_counted() -> None:
    seen = process(**{f"l{n}": {} for n in range(50)})
    lines = shown([seen], 80, height=24)
    assert len(lines) <= 24
    assert "… and 31 more" in lines
    assert len([line for line in shown([seen], 80) if line.endswith("alive")]) == 50


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("height", [24, 40])
def test_what_is_folded_leaves_fewer_lines_for_links(width: int, height: int) -> None:
    seen = process(**{f"l{n}": {} for n in range(50)})
    counters = {f"event:kind-of-event-{n}": n for n in range(12)}
    document = {**seen.document, "program": "a-program " * 8, "counters": counters}
    answered = parse(json.dumps(document).encode())
    alone = shown([answered], width, height)
    assert len(alone) == height
    assert any("kind-of-event-11" in line for line in alone)
    reason = Unanswered("no answer: " + "/run/a/long/path " * 10)
    beside = shown([answered, reason], width, height)
    assert len(beside) == height
    assert any("no answer" in line for line in beside)


def test_danger_is_red_and_calm_is_not() -> None:
    calm, silent = {"received_ago": 10.0}, {"received_ago": 91.0, "state": "lost"}
    (row,) = [line for line in shown([process(a=silent)], 80, color=True) if "lost" in line]
    assert re.search(r"\x1b\[31m1m31s", row)
    (row,) = [line for line in shown([process(a=calm)], 80, color=True) if "alive" in line]
    assert re.search(r"\x1b\[31m10s", row) is None


def test_one_that_does_not_answer_stands_beside_the_others() -> None:
    lines = shown([process(a={}), Unanswered("no answer at /x")], 80)
    assert any(line.endswith("alive") for line in lines)
    assert "no answer at /x" in lines


def test_a_process_that_stops_answering_stays_on_show(tmp_path: Path) -> None:
    before: list[ProcessSeen | Unanswered] = [process(a={})]
    (tmp_path / "s").mkdir()  # in place of a socket: something that cannot be asked
    seen = read_again(str(tmp_path / ("x" * 200)), before)
    assert seen[0] is before[0]
    assert "cannot be asked" in seen[1].reason


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0s"),
        (3.44, "3.4s"),
        (59.9, "59s"),
        (425, "7m05s"),
        (12000, "3h20m"),
        (1051200, "12d04h"),
    ],
)
def test_ages_are_short(seconds: float, text: str) -> None:
    assert age(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(-0.1, "0ms"), (0.0144, "14ms"), (2.5, "2.5s")])
def test_lateness_is_short(seconds: float, text: str) -> None:
    assert lateness(seconds) == text


class Terminal:
    """`hbshim watch` in a terminal of 80 by 24."""

    def __init__(self, *argv: str) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        dropped = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"}
        environment = {key: value for key, value in os.environ.items() if key not in dropped}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hbshim", "watch", *argv],
            stdin=theirs,
            stdout=theirs,
            stderr=subprocess.PIPE,
            text=True,
            env={**environment, "TERM": "xterm", "PYTHONPATH": str(CHECKOUT)},
        )
        os.close(theirs)
        self.output = ""

    def wait_for(self, pattern: str, times: int = 1) -> None:
        deadline = time.monotonic() + 120
        while len(re.findall(pattern, self.output)) < times:
            assert time.monotonic() < deadline, self.output
            if select.select([self._ours], [], [], 1)[0]:
                self.output += os.read(self._ours, 65536).decode()

    def end(self) -> tuple[int, str]:
        """Its exit status, and what it said."""
        deadline = time.monotonic() + 120
        while self.process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if select.select([self._ours], [], [], 0.1)[0]:
                    self.output += os.read(self._ours, 65536).decode()
        _, said = self.process.communicate(timeout=60)
        os.close(self._ours)
        return self.process.returncode, said


@needs_os_threads
def test_the_table_is_renewed_until_control_c(
    watched: Callable[..., tuple[subprocess.Popen[str], str]],
) -> None:
    process, path = watched()
    terminal = Terminal("--interval", "0.1", path)
    terminal.wait_for(rf"watched.py {process.pid}", times=3)
    assert "\x1b[?1049h" in terminal.output  # a screen of its own
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == (0, "")
    assert terminal.output.rstrip().endswith(("\x1b[?1049l", "\x1b[?25h"))


@needs_os_threads
def test_the_table_ends_with_the_process(
    watched: Callable[..., tuple[subprocess.Popen[str], str]],
) -> None:
    process, path = watched()
    terminal = Terminal("--interval", "0.1", path)
    terminal.wait_for(rf"watched.py {process.pid}")
    process.stdin.close()
    status, said = terminal.end()
    assert status == 2
    assert said.startswith("hbshim: no process listens at")


@needs_os_threads
def test_a_stopped_process_is_said_to_be_so(
    watched: Callable[..., tuple[subprocess.Popen[str], str]],
    hbshim: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    process, path = watched()
    process.send_signal(signal.SIGSTOP)
    try:
        done = hbshim("watch", "--once", path)
    finally:
        process.send_signal(signal.SIGCONT)
    assert done.returncode == 2
    assert "the process may be stopped" in done.stderr
