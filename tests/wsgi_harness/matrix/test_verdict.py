"""Verdicts: what is as expected, what is a finding, and the exit code."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.wsgi_harness.cell_stories import (
    BEGAN,
    HEARTBEAT,
    SILENCE,
    alive,
    closed,
    probe,
    scenario,
    several,
    warned,
)
from wsgi_harness.matrix.verdict import Outcome, Verdict, evaluate, exit_code
from wsgi_harness.observe.observation import (
    BrokerView,
    Life,
    Messages,
    Observation,
    Request,
    WireView,
)


def verdict_on(name: str, seen: Observation) -> Verdict:
    return evaluate(scenario(name), seen, HEARTBEAT)


def test_a_control_that_is_closed_failed_as_it_must() -> None:
    verdict = verdict_on("none-kombu", closed("none-kombu"))

    assert verdict.outcome is Outcome.EXPECTED_FAILURE
    assert verdict.why == ()
    assert verdict.seen == "closed after 3.0 T"


def test_a_control_that_survives_is_a_finding_and_the_exit_code_is_not_0() -> None:
    survived = replace(alive("none-kombu"), shim=None)

    verdict = verdict_on("none-kombu", survived)

    assert verdict.outcome is Outcome.UNEXPECTED
    assert "survived although it was expected to be closed" in verdict.why[0]
    assert exit_code([verdict]) == 1


def test_a_control_closed_for_another_reason_is_a_finding() -> None:
    seen = closed("none-pika")
    seen = replace(seen, broker=replace(seen.broker, reason="connection_closed_abruptly"))

    verdict = verdict_on("none-pika", seen)

    assert verdict.outcome is Outcome.UNEXPECTED
    assert "not for missed heartbeats: connection_closed_abruptly" in verdict.why[0]


def test_a_green_control_that_fails_although_its_thread_ran_is_unexpected() -> None:
    on_time = replace(closed("green-kombu"), green=probe(0.2))

    verdict = verdict_on("green-kombu", on_time)

    assert verdict.outcome is Outcome.UNEXPECTED
    assert "the parked hub does not explain it" in verdict.why[0]


def test_a_fix_that_stays_open_and_loses_nothing_passes() -> None:
    verdict = verdict_on("hbshim-auto-pika", alive("hbshim-auto-pika"))

    assert verdict.outcome is Outcome.PASS
    assert exit_code([verdict]) == 0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"broker": closed("x").broker}, "the connection was closed: missed heartbeats"),
        (
            {"requests": (Request("publish", SILENCE[1], SILENCE[1], 500, "OSError: gone"),)},
            "failed requests: 1 (OSError: gone)",
        ),
        ({"messages": Messages(20, 20, 19)}, "lost messages: 1 of 20"),
        ({"broker": replace(alive("x").broker, connections=2)}, "opened 2 connections"),
        (
            {"wire": replace(alive("x").wire, errors=("torn: the stream ended inside a frame",))},
            "incomplete AMQP frames on the wire: torn",
        ),
    ],
)
def test_a_fix_that_fails_in_any_way_broke(change: dict[str, Any], complaint: str) -> None:
    verdict = verdict_on("hbshim-auto-kombu", replace(alive("hbshim-auto-kombu"), **change))

    assert verdict.outcome is Outcome.FAIL
    assert any(complaint in why for why in verdict.why)
    assert exit_code([verdict]) == 1


def test_a_forced_worker_that_fails_with_a_warning_is_as_expected() -> None:
    name = "hbshim-greenthread-kombu"

    assert verdict_on(name, warned(closed(name))).outcome is Outcome.WARNED_FAILURE


def test_a_forced_worker_that_fails_in_silence_is_a_finding() -> None:
    name = "hbshim-tpool-pika"

    verdict = verdict_on(name, replace(closed(name), shim={"events": []}))

    assert verdict.outcome is Outcome.UNEXPECTED
    assert "did not warn" in verdict.why[0]


def test_a_control_expected_alive_that_dies_is_a_finding() -> None:
    assert verdict_on("native-pika", closed("native-pika")).outcome is Outcome.UNEXPECTED


def test_a_control_expected_alive_that_lives_is_as_expected_but_no_fix() -> None:
    assert verdict_on("native-pika", alive("native-pika")).outcome is Outcome.AS_EXPECTED


def test_a_cell_that_was_not_measured_has_no_verdict() -> None:
    seen = Observation("none-kombu", problems=("the broker never listed its connection",))

    verdict = verdict_on("none-kombu", seen)

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.why == seen.problems
    assert exit_code([verdict]) == 3


def test_messages_that_were_accepted_and_never_arrived_are_noted() -> None:
    swallowed = replace(closed("none-kombu"), messages=Messages(20, 3, 0))

    verdict = verdict_on("none-kombu", swallowed)

    assert any("3 messages were accepted and never arrived" in note for note in verdict.notes)


def test_heartbeats_that_no_witness_saw_are_reported_by_hbshim() -> None:
    lived = alive("hbshim-auto-kombu-tls")
    unseen = replace(lived, wire=WireView(visible=False))

    verdict = verdict_on("hbshim-auto-kombu-tls", unseen)

    assert verdict.outcome is Outcome.PASS
    assert any("hbshim recorded 12 heartbeats sent" in note for note in verdict.notes)
    died = replace(closed("x"), wire=WireView(visible=False), shim=lived.shim)
    assert verdict_on("hbshim-auto-kombu-tls", died).seen == "closed"


def test_a_driver_that_keeps_all_its_connections_passes() -> None:
    name = "hbshim-hbpika-oslo"

    assert verdict_on(name, several(alive(name), (None, None))).outcome is Outcome.PASS


def test_a_driver_that_loses_one_connection_of_several_broke() -> None:
    name = "hbshim-hbrabbit-oslo"
    seen = several(alive(name), (None, BEGAN + 12, None))

    verdict = verdict_on(name, seen)

    assert verdict.outcome is Outcome.FAIL
    assert "the connection was closed" in verdict.why[0]


def test_a_driver_that_connects_anew_broke_even_if_nothing_is_closed() -> None:
    name = "hbshim-hbkombu-oslo"
    seen = several(alive(name), (None, None))

    verdict = verdict_on(name, replace(seen, broker=replace(seen.broker, connections=3)))

    assert verdict.outcome is Outcome.FAIL
    assert verdict.why == ("the cell opened 3 connections instead of keeping 2",)


def test_what_a_stock_driver_hides_is_noted() -> None:
    name = "stock-rabbit-oslo"
    seen = several(closed(name), (BEGAN + 11, BEGAN + 12))
    again = (*seen.broker.lives, Life(SILENCE[1] + 0.2))
    published = Request("publish", SILENCE[1], SILENCE[1] + 1.94, 200)
    seen = replace(
        seen,
        broker=replace(seen.broker, lives=again, connections=3),
        requests=(seen.requests[0], published),
        messages=Messages(20, 20, 20),
    )

    verdict = verdict_on(name, seen)

    assert verdict.outcome is Outcome.EXPECTED_FAILURE
    assert verdict.notes == (
        "2 of its 2 connections were closed; in the second request, which took 1.9 s, "
        "the driver opened 1 anew",
    )


def test_a_green_thread_of_a_driver_must_have_been_late() -> None:
    name = "stock-rabbit-oslo17"
    on_time = replace(several(closed(name), (BEGAN + 12,)), green=probe(0.2))

    assert verdict_on(name, on_time).outcome is Outcome.UNEXPECTED


def test_a_machine_that_stood_still_is_noted() -> None:
    stalled = replace(closed("hbshim-auto-kombu"), native=probe(9.0))

    verdict = verdict_on("hbshim-auto-kombu", stalled)

    assert verdict.outcome is Outcome.FAIL
    assert any("the machine was overloaded" in note for note in verdict.notes)


def test_a_connection_that_the_broker_lists_but_has_closed_is_not_alive() -> None:
    seen = alive("hbshim-auto-kombu")
    listed_late = replace(
        seen,
        broker=BrokerView(
            opened=seen.broker.opened,
            closed=SILENCE[1] - 0.1,
            reason="missed heartbeats from client, timeout: 4s",
            heartbeat=HEARTBEAT,
            listed_after_silence=True,
            connections=1,
        ),
    )

    assert verdict_on("hbshim-auto-kombu", listed_late).outcome is Outcome.FAIL


def test_a_finding_outweighs_a_cell_that_was_not_measured() -> None:
    unmeasured = verdict_on("none-kombu", Observation("none-kombu", problems=("no answer",)))
    broke = verdict_on("hbshim-auto-kombu", closed("hbshim-auto-kombu"))
    kept = verdict_on("hbshim-auto-pika", alive("hbshim-auto-pika"))

    assert exit_code([kept, unmeasured]) == 3
    assert exit_code([kept, unmeasured, broke]) == 1


def test_no_verdict_at_all_is_no_success() -> None:
    assert exit_code([]) == 3
