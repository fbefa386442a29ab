"""The messaging benchmark measures what really happened; figures are never asserted here."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from hbshim.bench import suite
from hbshim.bench.rpc import contest, processes, turns
from hbshim.bench.rpc.contest import Entry
from hbshim.bench.rpc.parts import PREFIX, Work
from hbshim.bench.rpc.processes import Contestant
from hbshim.bench.rpc.tidy import tidy
from hbshim.errors import HbshimError, MissingExtraError
from tests.concurrency import MODEL
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker

pytestmark = pytest.mark.skipif(MODEL != "native", reason="benchmarks patch their own processes")

NAMES = [work.name for work in contest.WORKS]
PLUG_IN, OWN = contest.GROUPS
CAST = Work("cast", "cast")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "QUICK_SLICE", 0.05)
    monkeypatch.setattr(turns, "QUICK_SLICES", 1)


def left_behind(broker: Broker) -> list[str]:
    """What would stay permanently; the rest expires."""
    found = [*broker.management.get("queues"), *broker.management.get("exchanges")]
    return [
        each["name"]
        for each in found
        if each["name"].startswith(PREFIX) and "x-expires" not in each["arguments"]
    ]


# Of each group the measure and one more; `make bench ARGS=rpc` has them all.
@pytest.mark.parametrize(
    ("model", "group"),
    [("native", (PLUG_IN[0], PLUG_IN[-1])), ("eventlet", OWN[:2])],
    ids=["plug-in", "own"],
)
def test_there_is_a_row_for_every_contestant_at_every_work(
    broker: Broker,
    tiny: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    model: str,
    group: tuple[Entry, ...],
) -> None:
    monkeypatch.setattr(contest, "GROUPS", (group,))
    monkeypatch.setattr(contest, "MODELS", (model,))
    result = suite.run(["rpc"], broker.amqp_url(), quick=True, progress=lambda _: None)
    rows = json.loads(json.dumps(result))["rpc"]
    assert [(row["model"], row["contestant"], row["work"]) for row in rows] == [
        (model, entry.name, name) for name in NAMES for entry in group
    ]
    for row in rows:
        assert row["operations"] > 0
        assert row["p50_ms"] <= row["p99_ms"]
        assert row["reached"] == (None if row["aim"] is None else row["ratio"] >= row["aim"])
    assert [row["aim"] for row in rows if row["contestant"].startswith("plug-in, hbpika")] == (
        [2.0, 2.5, 4.0, 2.0] if PLUG_IN[-1] in group else []
    )
    suite.print_tables(result)
    assert "reached" in capsys.readouterr().out
    # What the management interface lists may be some seconds old.
    wait_until(lambda: left_behind(broker) == [])


def test_a_message_that_does_not_arrive_is_noticed(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = f"{PREFIX}-lost"
    with Contestant("own", "hbpika", topic, "native", broker.amqp_url()) as contestant:
        contestant.await_ready()
        assert contestant.measure(CAST, 0.05)["rate"] > 0
        contestant._expected["requests"] += 1
        monkeypatch.setattr(processes, "ANSWER_LIMIT", 2.0)
        with pytest.raises(HbshimError, match="the server took in"):
            contestant.measure(CAST, 0.05)
    tidy(broker.amqp_url(), [topic])


def test_a_contestant_that_fails_is_named_with_what_it_said() -> None:
    url = "amqp://guest:secret@127.0.0.1:1/"
    with (
        Contestant("bare", "pika", "nowhere", "native", url) as contestant,
        pytest.raises(HbshimError, match="bare pika server, native") as raised,
    ):
        contestant.await_ready()
    assert "secret" not in str(raised.value)


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(contest.LIBRARIES, "no_such_library", "kombu")
    with pytest.raises(MissingExtraError, match="no_such_library"):
        contest.run("amqp://127.0.0.1:1/", quick=True)


def test_without_a_broker_it_is_said_to_be_left_out() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hbshim", "bench", "--quick", "rpc"],
        capture_output=True,
        text=True,
        timeout=120,
        env={},
    )
    assert done.returncode == 0
    assert "left out, it needs a broker" in done.stdout
