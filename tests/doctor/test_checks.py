"""Each check's verdict, for cases that differ from a real process in one thing."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pytest

import hbshim
from hbshim.adapters.open_connections import Unkept
from hbshim.doctor.activity import Activity, Recorded
from hbshim.doctor.context import ConnectionProbe, Context, Negotiated, Queues
from hbshim.doctor.examination import CHECKS, examine
from hbshim.doctor.findings import Finding, Report, Verdict, finding_of
from hbshim.doctor.proposals import Proposal
from hbshim.observe.loops import LoopStatus
from hbshim.runtime.detect import RuntimeReport
from hbshim.runtime.loops import RunningLoop

HERE = hbshim.detect()
AGREED = Negotiated(4, 4, 60, 131072, 2047, "RabbitMQ", "4.0.5")
PROBE = ConnectionProbe("h:5672", "pika 1.4.4", "plain", AGREED, "pthread", 2.1, 2.0, 2.1)


def verdict(check: str, **context: Any) -> str:
    return found(check, **context).verdict


def found(check: str, **context: Any) -> Finding:
    (this,) = (each for each in CHECKS if each.name == check)
    return finding_of(this, Context(**{"runtime": HERE, **context}))


def process(part: str, **facts: Any) -> RuntimeReport:
    return dataclasses.replace(HERE, **{part: dataclasses.replace(getattr(HERE, part), **facts)})


def broker(version: str) -> ConnectionProbe:
    return dataclasses.replace(PROBE, negotiated=dataclasses.replace(AGREED, version=version))


def asks(
    seconds: int | None,
    *,
    client: str = "py-amqp",
    source: str = "the URL",
    smaller_wins: bool = True,
) -> tuple[Proposal]:
    return (Proposal(client, seconds, source, smaller_wins),)


@pytest.mark.parametrize(
    ("limit", "timeout", "expected"),
    [
        (60, 60, "ok"),
        (60, 95, "ok"),
        (60, 96, "warning"),
        (60, 119, "warning"),
        (60, 120, "problem"),
        (350, 60, "ok"),
        (60, 0, "problem"),
        (60, None, "unknown"),
        (None, 60, "not-applicable"),
    ],
)
def test_heartbeats_must_come_before_the_idle_limit(
    limit: int | None, timeout: int | None, expected: str
) -> None:
    assert verdict("idle-limit", idle_limit=limit, proposals=asks(timeout)) == expected


def test_connections_that_are_open_are_judged_before_those_to_come() -> None:
    context = Context(HERE, proposals=asks(10), live=(60.0, 20.0), probe=PROBE)
    assert [each.timeout for each in context.expected] == [60, 20]


@pytest.mark.parametrize(
    ("live", "limit", "expected"),
    [((60.0, 20.0), 30, "problem"), ((4.0, 60.0), None, "warning"), ((5.0, 60.0), 60, "ok")],
)
def test_the_worst_of_several_connections_counts(
    live: tuple[float, float], limit: int | None, expected: str
) -> None:
    name = "heartbeat" if limit is None else "idle-limit"
    assert verdict(name, live=live, idle_limit=limit) == expected


@pytest.mark.parametrize(
    ("timeout", "expected"),
    [(None, "not-applicable"), (0, "warning"), (4, "warning"), (5, "ok"), (60, "ok")],
)
def test_a_timeout_is_neither_off_nor_too_short(timeout: int | None, expected: str) -> None:
    assert verdict("heartbeat", proposals=asks(timeout)) == expected


def test_a_client_that_nothing_asks_a_heartbeat_of_is_a_problem() -> None:
    both = (*asks(0, source=""), *asks(None, client="pika", source="the broker"))
    answer = found("heartbeat", proposals=both, probe=PROBE)
    assert answer.verdict == "problem"
    assert "py-amqp: T = 0" in answer.sentence
    assert "pika: T = 60 s (the broker)" in answer.sentence
    assert "HBSHIM_HEARTBEAT=60" in answer.remedy
    assert verdict("idle-limit", proposals=both, probe=PROBE, idle_limit=40) == "problem"
    assert verdict("heartbeat", proposals=both[1:], probe=PROBE) == "ok"


def did(**events: Any) -> Activity:
    """The activity of a process that recorded these events, each with its level."""
    recorded = {
        kind.replace("_", "-"): Recorded(kind.replace("_", "-"), 2, level, "some detail")
        for kind, level in events.items()
    }
    return Activity(events=recorded)


def test_connections_that_negotiated_none_count_beside_those_kept_alive() -> None:
    activity = did(not_negotiated=logging.WARNING)
    assert verdict("heartbeat", live=(60.0,), activity=activity) == "problem"
    assert verdict("idle-limit", live=(10.0,), activity=activity, idle_limit=60) == "problem"


@pytest.mark.parametrize(
    ("activity", "expected"),
    [
        (Activity(), "not-applicable"),
        (did(worker_moved=logging.INFO), "ok"),
        (did(link_silent=logging.WARNING), "warning"),
        (did(not_kept_alive=logging.WARNING, link_silent=logging.WARNING), "problem"),
    ],
)
def test_what_hbshim_recorded_is_told(activity: Activity, expected: str) -> None:
    answer = found("events", activity=activity)
    assert answer.verdict == expected
    if expected in ("warning", "problem"):
        assert "link-silent (2): some detail" in answer.sentence


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"installed": True, "run": True}, "ok"),
        ({"run": True, "sitecustomize": "/other/sitecustomize.py"}, "problem"),
        ({"loaded": ("amqp",), "links": 2}, "ok"),
        ({"loaded": ("amqp",)}, "warning"),
        ({}, "not-applicable"),
    ],
)
def test_a_program_without_hbshim_is_told(facts: dict[str, Any], expected: str) -> None:
    answer = found("installed", activity=Activity(**facts))
    assert answer.verdict == expected
    assert ("/other/sitecustomize.py" in answer.sentence) == (expected == "problem")


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, "not-applicable"),
        ({"links": 2}, "ok"),
        ({"links": 2, "unkept": (Unkept("pika", 60.0),)}, "warning"),
        ({"installed": True, "unkept": (Unkept("py-amqp", 0.0),) * 2}, "problem"),
    ],
)
def test_open_connections_that_are_not_kept_alive_are_told(
    facts: dict[str, Any], expected: str
) -> None:
    answer = found("open-connections", activity=Activity(**facts))
    assert answer.verdict == expected
    assert ("2 of py-amqp, T = 0 s" in answer.sentence) == (expected == "problem")


def test_a_client_that_hbshim_does_not_know_is_told() -> None:
    other = "kombu.transport.librabbitmq:Transport"
    answer = found("clients", clients=("amqp",), kombu_transport=other)
    assert answer.verdict == "problem"
    assert other in answer.sentence
    assert "pyamqp://" in answer.remedy
    assert verdict("clients", clients=("pika",), kombu_transport=other) == "ok"
    assert verdict("clients", clients=("amqp",), other_clients=("aioamqp",)) == "warning"
    assert verdict("clients", clients=("amqp", "pika")) == "ok"
    # From a shell, or with --client.
    assert "py-amqp or pika" in found("clients", clients=("amqp", "pika")).sentence
    for loaded, named in (
        (("proton",), "through qpid-proton."),
        (("aiormq",), "through aiormq."),
        (("amqp", "aiormq"), "through py-amqp or aiormq."),
    ):
        activity = Activity(loaded=loaded)
        answer = found("clients", clients=("amqp", "pika"), activity=activity)
        assert (answer.verdict, named in answer.sentence) == ("ok", True), answer
    assert verdict("clients") == "not-applicable"


def test_the_lock_of_py_amqp_is_no_matter_of_pikas() -> None:
    assert verdict("py-amqp-lock", installed={"amqp": "5.3.1"}, clients=("pika",)) == (
        "not-applicable"
    )


@pytest.mark.parametrize(
    ("version", "expected"),
    [("5.2.0", "warning"), ("5.3.1", "warning"), ("5.4.0", "ok"), ("5.4.2", "ok")],
)
def test_a_py_amqp_without_its_lock_is_known(version: str, expected: str) -> None:
    assert verdict("py-amqp-lock", installed={"amqp": version}) == expected
    assert verdict("py-amqp-lock", installed={}) == "not-applicable"


@pytest.mark.parametrize(
    ("version", "tls", "expected"),
    [
        ("3.13.5", True, "not-applicable"),
        ("3.13.6", True, "problem"),
        ("3.13.6", False, "warning"),
        ("3.13.7", True, "not-applicable"),
    ],
)
def test_the_python_that_deadlocks_with_tls_is_known(
    version: str, tls: bool, expected: str
) -> None:
    runtime = process("interpreter", python=version)
    assert verdict("python-tls", runtime=runtime, tls=tls) == expected


@pytest.mark.parametrize(("version", "expected"), [("3.10.1", "ok"), ("3.99.0", "warning")])
def test_an_untested_python_is_a_warning(version: str, expected: str) -> None:
    runtime = process("interpreter", python=version)
    assert verdict("python", runtime=runtime, pythons=("3.10", "3.13")) == expected
    assert verdict("python", runtime=runtime) == "unknown"


def test_libraries_must_lie_in_the_range() -> None:
    ranges = {"amqp": "<6,>=5.2", "pika": "<2,>=1.3", "eventlet": "<1,>=0.36"}
    assert verdict("libraries", ranges=ranges, installed={"pika": "1.4.4"}) == "ok"
    assert verdict("libraries", ranges=ranges, installed={"eventlet": "0.41"}) == "warning"
    assert verdict("libraries") == "unknown"
    old = found("libraries", ranges=ranges, installed={"pika": "1.4.4", "eventlet": "0.33.0"})
    assert old.verdict == "problem"
    assert "eventlet 0.33.0 (supported: <1,>=0.36)" in old.sentence


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"threads_run": False}, "problem"),
        ({"threads_run": True}, "ok"),
        ({"kind": "plain"}, "not-applicable"),
    ],
)
def test_uwsgi_needs_its_threads(facts: dict[str, bool | str], expected: str) -> None:
    runtime = process("host", **{"kind": "uwsgi", "version": "2.0.26", **facts})
    assert verdict("uwsgi-threads", runtime=runtime) == expected


@pytest.mark.parametrize(
    ("facts", "check", "expected"),
    [
        ({}, "interpreter", "ok"),
        ({"main": False}, "interpreter", "ok"),
        ({"main": False, "own_gil": True, "daemon_threads": False}, "interpreter", "warning"),
        ({}, "free-threading", "not-applicable"),
        ({"free_threaded": True}, "free-threading", "ok"),
        ({"free_threaded": True, "gil_enabled": False}, "free-threading", "problem"),
    ],
)
def test_an_interpreters_limits_are_told(facts: dict[str, Any], check: str, expected: str) -> None:
    assert verdict(check, runtime=process("interpreter", **facts)) == expected


@pytest.mark.parametrize(
    ("version", "text"),
    [("3.10.8", "4.3 refuses them"), ("4.2.1", "accepts"), ("4.3.0", "refuses queues")],
)
def test_that_amqp_cannot_list_queues_is_reported(version: str, text: str) -> None:
    answer = found("queue-kinds", probe=broker(version))
    assert answer.verdict == "unknown"
    assert text in answer.sentence
    assert "--management" in answer.remedy


def test_queues_that_were_listed() -> None:
    several = Queues(5, 9, ("a", "b", "c", "d"), "4.3.0")
    assert verdict("queue-kinds", queues=Queues(5, 5, (), "4.3.0")) == "ok"
    assert "a, b, c and 1 more" in found("queue-kinds", queues=several).sentence
    assert "will refuse" in found("queue-kinds", queues=Queues(1, 1, ("a",), "4.2.0")).sentence
    assert verdict("queue-kinds", queues=("cannot ask", "do this")) == "problem"


@pytest.mark.parametrize(
    ("version", "text"), [("4.2.0", "ends a consumer"), ("4.3.0-rc.1", "a quorum queue's")]
)
def test_the_ack_timeout_is_explained(version: str, text: str) -> None:
    answer = found("ack-timeout", probe=broker(version))
    assert answer.verdict == "unknown"
    assert text in answer.sentence
    assert "PRECONDITION_FAILED" in answer.remedy
    other = dataclasses.replace(PROBE, negotiated=dataclasses.replace(AGREED, product="LavinMQ"))
    assert verdict("ack-timeout", probe=other) == "not-applicable"


def test_a_watch_that_was_too_short_is_no_finding_about_the_broker() -> None:
    short = dataclasses.replace(PROBE, received_after=None, watched=1.0)
    assert verdict("heartbeat-in", probe=short) == "unknown"
    assert verdict("heartbeat-in", probe=dataclasses.replace(short, watched=9.0)) == "problem"


def test_every_bad_finding_has_a_remedy() -> None:
    report = examine()
    assert [each.check for each in report.findings] == [check.name for check in CHECKS]
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    for check in CHECKS:
        assert check.remedy
        assert check.examines
        assert check.meaning


@pytest.mark.parametrize(
    ("verdicts", "unreachable", "status"),
    [
        (("ok", "unknown", "not-applicable"), False, 0),
        (("ok", "warning"), False, 1),
        (("problem", "ok"), False, 1),
        (("problem",), True, 2),
    ],
)
def test_the_exit_status(verdicts: tuple[Verdict, ...], unreachable: bool, status: int) -> None:
    ok = examine().findings[0]
    report = Report(
        tuple(dataclasses.replace(ok, verdict=verdict) for verdict in verdicts), unreachable
    )
    assert report.exit_status == report.as_dict()["exit_status"] == status


def test_findings_are_found_by_name() -> None:
    assert examine().finding("worker").check == "worker"
    with pytest.raises(KeyError):
        examine().finding("no such check")


LOOP = LoopStatus("asyncio", "MainThread", True, 2, 10.0, 0.001, 0.02)


@pytest.mark.parametrize(
    ("changes", "expected", "sentence"),
    [
        ({}, "ok", "Asyncio's own event loop in thread MainThread was at most 20 ms late"),
        ({"worst_lateness": 5.1}, "warning", "was blocked for 5.1 s, longer than T/2 = 5 s"),
        ({"running": False}, "warning", "does not run, and has 2 connections"),
        ({"kind": "uvloop"}, "ok", "uvloop in thread MainThread was at most"),
    ],
)
def test_an_event_loop_is_judged_by_its_lateness(
    changes: dict[str, Any], expected: str, sentence: str
) -> None:
    finding = found("event-loop", loops=(dataclasses.replace(LOOP, **changes),))
    assert finding.verdict == expected
    assert sentence in finding.sentence


def test_a_loop_without_connections_is_named_and_no_loop_is_not_applicable() -> None:
    assert verdict("event-loop") == "not-applicable"
    running = process("loops", running=(RunningLoop("uvloop", "MainThread"),))
    finding = found("event-loop", runtime=running)
    assert (finding.verdict, finding.sentence[:27]) == ("ok", "uvloop in thread MainThread")


def test_connections_over_uvloops_tls_are_told_with_their_limit() -> None:
    unkept = (Unkept("aiormq", 60.0, over_uvloop_tls=True),)
    finding = found("event-loop", activity=Activity(installed=True, unkept=unkept))
    assert finding.verdict == "warning"
    assert "longer than 1.5 T = 90 s" in finding.sentence
    assert "--loop asyncio" in finding.remedy
