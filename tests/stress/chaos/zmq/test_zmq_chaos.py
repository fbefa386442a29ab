"""A short run for real; each way to break the invariant is found; the plan, and the page."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stress.chaos.zmq.faults import FAULTS, SENDS, Fault
from tests.stress.chaos.zmq.invariant import Result, check_invariant
from tests.stress.chaos.zmq.journal import Journal, Message, Run
from tests.stress.chaos.zmq.plan import draw

PAGE = Path(__file__).parents[4] / "docs" / "chaos.md"

T = 2

#: May lose what nothing acknowledges, and the process of the client runs meanwhile.
KILLED = Fault(FAULTS["proxy-killed"], "host1", 100.0, 102.0)
PAUSED = Fault(FAULTS["client-paused"], "client", 10.0, 14.0)


def message(what: str = "call", id_: str = "m", **changes: object) -> Message:
    value = "host1" if what == "call" else None
    made = Message(id_, what, "client", 10.0, 5.0, ended=11.0, ends=1, value=value)
    for name, change in changes.items():
        setattr(made, name, change)
    return made


def run(server: str = "host1.1", *, again: bool = False) -> Run:
    return Run("m", 10.5, server, again)


def judged(made: Message, *runs: Run, faults: tuple[Fault, ...] = (), counted: int = 0) -> Result:
    journal = Journal({made.id: made}, list(runs), lives={"host1.1": [0.0, math.inf]})
    return check_invariant(journal, faults, T, ["host1", "host2"], counted)


def rules(result: Result) -> set[str]:
    return {violation.rule for violation in result.violations}


def test_a_message_ends_once_and_in_time() -> None:
    assert rules(judged(message(), run())) == set()
    assert rules(judged(message(ends=0, ended=0.0), run())) == {"unended"}
    assert rules(judged(message(ends=2), run())) == {"twice-ended"}
    late = message(ended=16.5)
    assert rules(judged(late, run())) == {"late"}
    assert rules(judged(late, run(), faults=(PAUSED,))) == set()


def test_an_error_that_is_none_of_ours_and_a_wrong_answer() -> None:
    assert rules(judged(message(error="CallTimeoutError"))) == set()
    assert rules(judged(message(error="foreign: KeyError"))) == {"error"}
    assert rules(judged(message(value="nonsense"), run())) == {"wrong"}
    assert rules(judged(message())) == {"wrong"}


@pytest.mark.parametrize("what", ["call", "cast", "notification", "fanout", "acked notification"])
def test_nothing_runs_twice(what: str) -> None:
    made = message(what)
    assert rules(judged(made, run(), run())) == {"ran-twice"}
    each_server = {"fanout", "acked notification"}
    expected = set() if what in each_server else {"ran-twice"}
    assert rules(judged(made, run(), run("host2.1"))) == expected


def test_a_copy_of_what_is_acknowledged_is_marked() -> None:
    made = message("acked cast")
    assert rules(judged(made, run(), run("host2.1", again=True))) == set()
    assert rules(judged(made, run(), run("host2.1"))) == {"ran-twice"}
    assert rules(judged(made)) == {"lost"}


@pytest.mark.parametrize("what", ["cast", "notification", "fanout"])
def test_what_nothing_acknowledges_is_lost_by_a_fault_or_counted(what: str) -> None:
    assert rules(judged(message(what))) == {"lost"}
    assert rules(judged(message(what), counted=1)) == set()
    near = message(what, began=99.0, ended=99.1)
    assert rules(judged(near, faults=(KILLED,))) == set()
    assert rules(judged(message(what), faults=(KILLED,))) == {"lost"}
    assert rules(judged(message(what, "a-last-1", began=99.0), faults=(KILLED,))) == {"lost"}


def test_the_same_seed_gives_the_same_faults_and_no_target_has_two_at_once() -> None:
    hosts, clients = ["host1", "host2"], ["client"]
    steps = draw(5, 300, T, hosts, clients)
    assert steps == draw(5, 300, T, hosts, clients)
    assert steps != draw(6, 300, T, hosts, clients)
    assert {step.kind.name for step in draw(1, 3000, T, hosts, clients)} == FAULTS.keys()
    for target in (*hosts, *clients, ""):
        own = [step for step in steps if step.target == target]
        assert own
        assert all(one.at + one.lasts < next_.at for one, next_ in itertools.pairwise(own))


@pytest.mark.alone
def test_the_invariant_holds_for_a_while(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    command = [sys.executable, "-m", "tests.stress.chaos", "--driver", "hbzmq", "--zones", "2"]
    command += ["--seconds", "5", "--heartbeat", "1", "--seed", "9", "--report", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads(file.read_text())
    assert (data["held"], data["violations"]) == (True, [])
    assert data["faults"]
    # Each kind was sent at the end, when all was well.
    assert all(data["totals"][f"{what}: well"] >= 3 for what in SENDS)


def test_a_fault_of_the_other_list_is_refused() -> None:
    command = [sys.executable, "-m", "tests.stress.chaos", "--driver", "hbzmq", "--fault", "alarm"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "alarm: no such fault" in done.stderr


def table() -> str:
    lines = ["| fault | hits | what happens |", "| --- | --- | --- |"]
    lines += [f"| `{kind.name}` | {kind.target.value} | {kind.what} |" for kind in FAULTS.values()]
    return "\n".join(lines)


def test_the_faults_of_the_page_are_the_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    shown = text.partition("test_zmq_chaos.py -->\n")[2].partition("\n<!-- end of faults -->")[0]
    assert shown == table(), f"put this into {PAGE.name}:\n{table()}"
