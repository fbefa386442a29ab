"""Run oslo.messaging's functional suite: schemes, versions and models, side by side."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.stress.child import clean_environment
from tests.stress.oslo import machine
from tests.stress.oslo.schemes import STOCK, url
from tests.stress.oslo.suite import CLUSTER

MODELS = ("green", "native")

#: One test of each kind, for CI: they take little time and leave out no part of a driver. Each is
#: the whole end of a test's name. ``CastTestCase.test_server_in_group`` is not among them: it
#: expects that a cast is done when the next one is, though each has a thread of its own. On a busy
#: machine that failed in 10 of 160 rounds of hbshim's drivers, none of whose casts was lost, and in
#: none of 80 of ``rabbit://``, which hands out one message at a time. `make oslo` has it.
SUBSET = (
    "CallTestCase.test_exception",
    "CallTestCase.test_mandatory_call",
    "CallTestCase.test_specific_server",
    "CallTestCase.test_timeout",
    "CallTestCase.test_timeout_with_concurrently_queues",
    "CastTestCase.test_fanout",
    "CastTestCase.test_specific_server",
    "NotifyTestCase.test_all_categories",
    "NotifyTestCase.test_simple",
    "NotifyTestCase.test_simple_batch",
)
#: The schemes whose driver is oslo.messaging's, and the tests that look into its connections.
STOCK_DRIVERS = (STOCK, "hbrabbit")
STOCK_TESTS = "RabbitMQFailoverTests."
#: A test that is at it for longer is ended by oslotest and has failed; seconds.
_TEST_LIMIT = 180
_PARTS = 3
_SIDE_BY_SIDE = 6
#: How often what failed is run again, while the machine has no time for it; and how many seconds
#: it may take until it has.
_TRIES = 5
_CALM_LIMIT = 60.0


@dataclass(frozen=True)
class Cell:
    """One run of the suite.

    Attributes:
        version: of oslo.messaging, for the table.
        python: an interpreter that has it.
        amqp_url: a virtual host that no other cell uses at the same time.
        cluster: see :meth:`tests.stress.oslo.failover.Control.described`; without it, the tests of
            failovers are skipped.
        options: more variables of the environment.
    """

    scheme: str
    version: str
    model: str
    python: Path
    amqp_url: str = field(repr=False)
    cluster: str = field(default="", repr=False)
    options: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """A name for files."""
        return f"{self.scheme}-{self.version}-{self.model}"


@dataclass(frozen=True)
class Outcome:
    """What the suite gave in one cell.

    Attributes:
        tests: each test's outcome: `passed`, `failed` or `skipped`.
        texts: why a test failed or was skipped.
        seconds: that the parts took, one after another.
        repeated: tests that failed, and passed when the machine had time for them.
    """

    cell: Cell
    tests: Mapping[str, str]
    texts: Mapping[str, str]
    seconds: float
    repeated: tuple[str, ...] = ()

    def count(self, outcome: str) -> int:
        """Return how many tests ended so."""
        return list(self.tests.values()).count(outcome)

    def failures(self) -> list[str]:
        """Return the names of the tests that failed."""
        return sorted(name for name, outcome in self.tests.items() if outcome == "failed")


def run(
    cells: Sequence[Cell],
    directory: Path,
    *,
    only: Sequence[str] = (),
    parts: int = _PARTS,
    limit: float = 900.0,
    side_by_side: int = _SIDE_BY_SIDE,
    done: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """Run the suite in every cell.

    Parameters:
        directory: for the results and logs of each.
        only: texts of which a test's name has to hold one; all tests without.
        parts: processes that share a cell's tests.
        limit: seconds after which a part is ended; what it has not done has failed then.
        side_by_side: processes at the same time.
        done: called as each part ends.
    """
    directory.mkdir(parents=True, exist_ok=True)
    jobs = list(itertools.product(cells, range(parts)))

    def work(job: tuple[Cell, int]) -> tuple[Path, float]:
        cell, index = job
        path = directory / f"{cell.name}-{index}.json"
        path.unlink(missing_ok=True)
        began = time.monotonic()
        _run_part(cell, path, index, parts, only, limit)
        done()
        return path, time.monotonic() - began

    with ThreadPoolExecutor(side_by_side) as workers:
        found = dict(zip(jobs, workers.map(work, jobs), strict=True))
    return [_outcome(cell, [found[cell, index] for index in range(parts)]) for cell in cells]


def merged(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return one outcome for each cell; of a test that was skipped once and run once, the run."""
    found: dict[str, Outcome] = {}
    for each in outcomes:
        first = found.setdefault(each.cell.name, each)
        if first is each:
            continue
        names = [name for name, outcome in each.tests.items() if outcome != "skipped"]
        found[each.cell.name] = replace(
            first,
            tests={**each.tests, **first.tests, **{name: each.tests[name] for name in names}},
            texts={
                **each.texts,
                **first.texts,
                **{name: each.texts.get(name, "") for name in names},
            },
            seconds=first.seconds + each.seconds,
            repeated=(*first.repeated, *each.repeated),
        )
    return list(found.values())


def repeat(
    outcome: Outcome,
    directory: Path,
    *,
    times: Callable[[], machine.Times] = machine.now,
    wait_until_calm: Callable[[float], bool] = machine.wait_until_calm,
) -> Outcome:
    """Run again, alone, what failed in a cell; return the outcome with that.

    Some of oslo.messaging's tests count what happens within two seconds, and fail on a busy
    machine, over `rabbit://` too. So each is run once more, when the machine is calm, and again
    only if the machine was busy meanwhile: a failure that had the time it needs counts.

    Parameters:
        times: the processors' times.
        wait_until_calm: waits for at most so many seconds.
    """
    tests, texts = dict(outcome.tests), dict(outcome.texts)
    for _ in range(_TRIES):
        failed = replace(outcome, tests=tests).failures()
        if not failed:
            break
        wait_until_calm(_CALM_LIMIT)
        since = times()
        (again,) = run([outcome.cell], directory / "again", only=failed, parts=1)
        for name in failed:
            tests[name] = again.tests.get(name, "failed")
            texts[name] = again.texts.get(name, texts.get(name, ""))
        if machine.idle_share(since, times()) >= machine.CALM:
            break
    passed = tuple(name for name in outcome.failures() if tests[name] == "passed")
    return replace(outcome, tests=tests, texts=texts, repeated=passed)


def _run_part(
    cell: Cell, path: Path, index: int, parts: int, only: Sequence[str], limit: float
) -> None:
    environment = {
        **clean_environment(),
        "RPC_TRANSPORT_URL": url(cell.amqp_url, cell.scheme),
        "NOTIFY_TRANSPORT_URL": url(cell.amqp_url, cell.scheme),
        "OS_TEST_TIMEOUT": str(_TEST_LIMIT),
        **({CLUSTER: cell.cluster} if cell.cluster else {}),
        **dict(cell.options),
        # The suite's own wish: what it starts must be found.
        "PATH": f"{cell.python.parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    argv = [str(cell.python), "-W", "ignore", "-m", "tests.stress.oslo.suite", cell.model]
    share = ["--part", str(index), str(parts), *(["--only", *only] if only else [])]
    with path.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            [*argv, str(path), *share], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            pass
        finally:
            process.kill()
            process.wait()


def _outcome(cell: Cell, parts: Sequence[tuple[Path, float]]) -> Outcome:
    tests: dict[str, str] = {}
    texts: dict[str, str] = {}
    for path, _seconds in parts:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if not lines:
            tests[path.stem], texts[path.stem] = "failed", "its tests could not be loaded"
        for line in lines[1:]:
            entry = json.loads(line)
            name, outcome = entry["test"], entry["outcome"]
            # Planned and never ended: the process hung or broke down.
            tests[name] = "failed" if outcome == "planned" else outcome
            texts[name] = "it never ended" if outcome == "planned" else entry["text"]
    return Outcome(cell, tests, texts, sum(seconds for _, seconds in parts))


def complaints(outcomes: Sequence[Outcome]) -> list[str]:
    """Return what a scheme of hbshim does not pass and oslo.messaging's own does."""
    stock = {
        (each.cell.version, each.cell.model): each.tests
        for each in outcomes
        if each.cell.scheme == STOCK
    }
    found = []
    for each in outcomes:
        cell = each.cell
        if cell.scheme == STOCK:
            continue
        control = stock.get((cell.version, cell.model), {})
        if not each.count("passed"):
            found.append(f"{cell.name}: nothing passed")
        for name in sorted({*control, *each.tests}):
            mine = each.tests.get(name, "absent")
            if mine == "skipped" and STOCK_TESTS in name and cell.scheme not in STOCK_DRIVERS:
                continue
            if mine == "failed" or (control.get(name) == "passed" and mine != "passed"):
                found.append(f"{cell.name}: {mine}: {name}")
    return found
