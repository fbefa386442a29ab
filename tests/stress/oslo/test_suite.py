"""oslo.messaging's own functional suite, one test of each kind; `make oslo` runs all of it."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tests.oslo.conftest import MODELS
from tests.stress.child import clean_environment
from tests.stress.oslo.machine import Times, idle_share, now, wait_until_calm
from tests.stress.oslo.report import short
from tests.stress.oslo.run import SUBSET, Cell, Outcome, complaints, repeat, run
from tests.stress.oslo.schemes import STOCK, ours
from tests.stress.oslo.suite import GuardedUrl, is_chosen
from wsgi_harness.stack.broker import Broker


def cell(scheme: str, model: str = "green", amqp_url: str = "") -> Cell:
    return Cell(scheme, "18.3", model, Path(sys.executable), amqp_url)


@pytest.mark.alone
@pytest.mark.parametrize(
    "part",
    [slice(2), pytest.param(slice(2, None), marks=pytest.mark.extended)],
    ids=["two", "rest"],
)
def test_one_test_of_each_kind_passes(broker: Broker, tmp_path: Path, part: slice) -> None:
    """Of every scheme, in green threads or in native ones, with the newest oslo.messaging.

    `make oslo` runs every scheme in both.
    """
    cells = []
    for scheme, model in list(zip(ours(), itertools.cycle(MODELS)))[part]:
        # Its own: the suite's topics have the same names in each run.
        vhost = f"{scheme}-{model}"
        broker.management.add_vhost(vhost)
        cells.append(cell(scheme, model, broker.amqp_url(vhost=vhost)))
    for first in run(cells, tmp_path, only=SUBSET, parts=1, limit=400, side_by_side=3):
        # As the command does: one of the tests counts what comes within two seconds.
        outcome = repeat(first, tmp_path)
        assert outcome.failures() == [], outcome.texts
        assert sorted(map(short, outcome.tests)) == sorted(f"test_functional.{x}" for x in SUBSET)
        assert outcome.count("passed") == len(SUBSET), outcome.tests


def test_a_broker_that_is_not_there_fails(tmp_path: Path) -> None:
    """The runner can see a failure, and a test that never ends."""
    nowhere = cell("hbrabbit", amqp_url="amqp://unknown:secret@127.0.0.1:1/")
    (outcome,) = run(
        [nowhere], tmp_path, only=["CastTestCase.test_specific_server"], parts=1, limit=8
    )
    assert outcome.count("passed") == 0
    assert len(outcome.failures()) == 1
    assert complaints([outcome])


def test_parts_without_a_test_are_none(broker: Broker, tmp_path: Path) -> None:
    one = ["CallTestCase.test_specific_server"]
    here = cell("hbrabbit", amqp_url=broker.amqp_url())
    (outcome,) = run([here], tmp_path, only=one, parts=2)
    assert list(outcome.tests.values()) == ["passed"], outcome.texts


FAILED = ["suite.CallTestCase.test_one", "suite.CallTestCase.test_two"]


#: The tests of each further run, and the results that it is to have.
Runs: TypeAlias = tuple[list[Any], list[Any]]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    """What the suite gives each time that it is run again, for each test; and what was run."""
    ran: list[Any] = []
    given: list[Any] = []

    def run_again(
        cells: list[Cell], _directory: object, *, only: list[str], parts: int
    ) -> list[Outcome]:
        ran.append(list(only))
        assert parts == 1
        tests = {name: given[len(ran) - 1][name] for name in only}
        return [Outcome(cells[0], tests, dict.fromkeys(only, "why"), 1.0)]

    monkeypatch.setattr("tests.stress.oslo.run.run", run_again)
    return ran, given


def again(tmp_path: Path, *shares: float) -> Outcome:
    """Repeat two failures, on a machine that is idle to these shares while they run."""
    pairs = [each for share in shares for each in (Times(0, 0), Times(int(100 * share), 100))]
    ticks = iter(pairs)
    waited: list[float] = []

    def calm(limit: float) -> bool:
        waited.append(limit)
        return True

    first = Outcome(cell("hbrabbit"), dict.fromkeys(FAILED, "failed"), {}, 1.0)
    outcome = repeat(
        first,
        tmp_path,
        times=lambda: next(ticks),
        wait_until_calm=calm,
    )
    assert waited == [60.0] * len(shares)
    return outcome


def test_a_failure_that_had_time_counts(runs: Runs, tmp_path: Path) -> None:
    ran, given = runs
    given += [{FAILED[0]: "passed", FAILED[1]: "failed"}]
    outcome = again(tmp_path, 0.5)
    assert outcome.repeated == (FAILED[0],)
    assert outcome.failures() == [FAILED[1]]
    assert outcome.texts[FAILED[1]] == "why"
    assert ran == [FAILED]


def test_a_failure_on_a_busy_machine_is_run_again(runs: Runs, tmp_path: Path) -> None:
    ran, given = runs
    given += [
        {FAILED[0]: "passed", FAILED[1]: "failed"},
        {FAILED[1]: "failed"},
        {FAILED[1]: "passed"},
    ]
    outcome = again(tmp_path, 0.01, 0.09, 0.0)
    assert outcome.repeated == tuple(FAILED)
    assert ran == [FAILED, FAILED[1:], FAILED[1:]]


def test_it_is_not_run_again_without_end(runs: Runs, tmp_path: Path) -> None:
    ran, given = runs
    given += [dict.fromkeys(FAILED, "failed")] * 5
    assert again(tmp_path, *[0.0] * 5).failures() == FAILED
    assert len(ran) == 5


def test_a_test_that_is_gone_has_failed(broker: Broker, tmp_path: Path) -> None:
    names = ["oslo_messaging.tests.functional.test_functional.CallTestCase.test_exception", "gone"]
    here = cell("hbrabbit", amqp_url=broker.amqp_url())
    first = Outcome(here, dict.fromkeys(names, "failed"), {}, 1.0)
    # An idle machine: on a busy one, what is gone would be looked for again.
    ticks = iter([Times(0, 0), Times(100, 100)])
    outcome = repeat(
        first, tmp_path, times=lambda: next(ticks), wait_until_calm=lambda _seconds: True
    )
    assert outcome.repeated == (names[0],)
    assert outcome.failures() == ["gone"]


def test_calm_is_waited_for() -> None:
    ticks = iter([Times(0, 0), Times(9, 100), Times(9, 100), Times(19, 200)])
    slept: list[Any] = []
    assert wait_until_calm(60, times=lambda: next(ticks), sleep=slept.append)
    assert slept == [1.0, 1.0]
    slept.clear()
    assert not wait_until_calm(3, times=lambda: Times(0, len(slept)), sleep=slept.append)
    assert slept == [1.0, 1.0, 1.0]


def test_the_kernel_reports_how_busy_the_machine_is(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  10 20 30 400 50 6 7 8 90 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n")
    assert now(stat) == Times(idle=450, total=531)
    assert 0 <= idle_share(now(), now()) <= 1
    assert idle_share(Times(0, 0), Times(25, 100)) == 0.25


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("CallTestCase.test_timeout", True),
        ("CallTestCase.test_time", False),
        ("CallTestCase", True),
        ("test_time", True),
        ("CastTestCase", False),
        ("suite.CallTestCase.test_timeout", True),
    ],
)
def test_tests_are_chosen_by_their_names(text: str, chosen: bool) -> None:
    assert is_chosen("suite.CallTestCase.test_timeout", [text]) is chosen


def test_only_what_stock_does_not_pass_either_may_be_skipped() -> None:
    stock = Outcome(cell(STOCK), {"a": "passed", "b": "skipped", "c": "failed"}, {}, 1.0)
    same = Outcome(cell("hbrabbit"), {"a": "passed", "b": "skipped", "c": "passed"}, {}, 1.0)
    assert complaints([stock, same]) == []
    for worse in ({"a": "skipped"}, {"a": "failed"}, {}, {"a": "passed", "b": "failed"}):
        assert complaints([stock, Outcome(cell("hbrabbit"), worse, {}, 1.0)]), worse


def test_a_test_of_the_stock_driver_may_be_skipped_by_others() -> None:
    name = "suite.RabbitMQFailoverTests.test_one"
    stock = Outcome(cell(STOCK), {"a": "passed", name: "passed"}, {}, 1.0)
    skipped = {"a": "passed", name: "skipped"}
    assert complaints([stock, Outcome(cell("hbpika"), skipped, {}, 1.0)]) == []
    assert complaints([stock, Outcome(cell("hbrabbit"), skipped, {}, 1.0)])
    failed = {"a": "passed", name: "failed"}
    assert complaints([stock, Outcome(cell("hbpika"), failed, {}, 1.0)])


def test_guards_see_rabbit_and_everything_else_sees_the_scheme() -> None:
    url = GuardedUrl("hbrabbit://host/")
    assert url.startswith("rabbit://")
    assert url.startswith("hbrabbit://")
    assert not url.startswith("kafka://")
    assert not url.startswith("amqp:")
    assert f"{url}" == "hbrabbit://host/"


def test_a_missing_scheme_is_reported() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.stress.oslo", "--scheme", "hbpigeon"],
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_environment(),
    )
    assert done.returncode == 2
    assert "no scheme of hbshim: hbpigeon" in done.stderr
    assert "hbrabbit" in done.stderr
