"""The benchmark over AMQP 1.0 measures what really happened; figures are never asserted here."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from hbshim.bench import suite
from hbshim.bench.amqp1 import contest
from hbshim.bench.amqp1.contest import ENGINE, OWN, PROTON, WORKS
from hbshim.bench.rpc import turns
from hbshim.errors import OptionError
from tests.concurrency import MODEL
from tests.messaging.amqp1.routers import HOST, Router, running

pytestmark = pytest.mark.skipif(MODEL != "native", reason="benchmarks patch their own processes")


@pytest.fixture(scope="module")
def router() -> Iterator[Router]:
    """A router that closes no idle connection: bare contestants are idle in turn."""
    yield from running(idle=0)


def test_there_is_a_row_for_every_comparison(
    router: Router, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # oslo.messaging's contestants: see the benchmark itself.
    compared = tuple(
        each for each in contest.COMPARISONS if {each.of, each.against} <= {OWN, PROTON, ENGINE}
    )
    monkeypatch.setattr(turns, "QUICK_SLICE", 0.05)
    monkeypatch.setattr(turns, "QUICK_SLICES", 1)
    monkeypatch.setattr(contest, "COMPARISONS", compared)
    monkeypatch.setenv(contest.ROUTER_VARIABLE, f"amqp://{HOST}:{router.port}")
    result = suite.run(["amqp1"], None, quick=True, progress=lambda _: None)
    rows = json.loads(json.dumps(result))["amqp1"]
    assert {row["work"] for row in rows} == {work.name for work in WORKS}
    assert [(row["work"], row["contestant"], row["against"]) for row in rows] == [
        (each.work.name, each.of.name, each.against.name) for each in compared
    ]
    for row in rows:
        assert row["per_second"] > 0
        assert row["ratio"] > 0
        assert (row["reached"] is None) == (row["must"] is None)
    suite.print_tables(result)
    assert "≥ 0.7" in capsys.readouterr().out


def test_without_a_router_it_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(contest.ROUTER_VARIABLE, raising=False)
    suite.print_tables(suite.run(["amqp1"], None, quick=True, progress=lambda _: None))
    assert "left out, it needs a router" in capsys.readouterr().out


def test_a_malformed_url_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(contest.ROUTER_VARIABLE, "amqp://user:s3cret@host")
    with pytest.raises(OptionError, match="amqp://host:port") as raised:
        contest.run(quick=True)
    assert "s3cret" not in str(raised.value)
