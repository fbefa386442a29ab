"""Compares the observation of a cell with its expectation. Pure: no clock, no container."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wsgi_harness.matrix.scenarios import Scenario
from wsgi_harness.observe.observation import Observation

#: hbshim's event for a worker that the user chose and that is known to fail.
WARNING_EVENT = "choice-warning"


class Outcome(enum.Enum):
    """The outcome of a cell; the value is what the report shows."""

    PASS = "pass"
    EXPECTED_FAILURE = "expected failure"
    WARNED_FAILURE = "expected failure, warned"
    AS_EXPECTED = "as expected"
    FAIL = "FAIL"
    UNEXPECTED = "UNEXPECTED"
    INCONCLUSIVE = "INCONCLUSIVE"

    @property
    def ok(self) -> bool:
        """Whether the expectation was met."""
        return self not in (Outcome.FAIL, Outcome.UNEXPECTED, Outcome.INCONCLUSIVE)


@dataclass(frozen=True)
class Verdict:
    """The verdict on one cell.

    Attributes:
        scenario: its name.
        outcome: see :class:`Outcome`.
        seen: what happened, in a few words.
        why: what contradicts the expectation; empty if nothing does.
        notes: further information for the reader.
    """

    scenario: str
    outcome: Outcome
    seen: str
    why: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def evaluate(scenario: Scenario, seen: Observation, heartbeat: int) -> Verdict:
    """Return the verdict on one cell.

    Parameters:
        scenario: the cell.
        seen: its observation.
        heartbeat: T of the run, in seconds.
    """
    why = seen.problems
    if why:
        outcome = Outcome.INCONCLUSIVE
    elif scenario.expected == "closed":
        why = tuple(_against_closed(scenario, seen, heartbeat))
        met = Outcome.WARNED_FAILURE if scenario.warns else Outcome.EXPECTED_FAILURE
        outcome = Outcome.UNEXPECTED if why else met
    else:
        why = tuple(_against_alive(seen))
        if why:
            outcome = Outcome.FAIL if scenario.is_fix else Outcome.UNEXPECTED
        else:
            outcome = Outcome.PASS if scenario.is_fix else Outcome.AS_EXPECTED
    notes = () if seen.problems else tuple(_notes(scenario, seen, heartbeat))
    return Verdict(scenario.name, outcome, _describe(seen, heartbeat), why, notes)


def exit_code(verdicts: Sequence[Verdict]) -> int:
    """0: every expectation was met. 1: one was not. 3: a cell was not measured."""
    outcomes = {verdict.outcome for verdict in verdicts}
    if outcomes & {Outcome.FAIL, Outcome.UNEXPECTED}:
        return 1
    return 3 if Outcome.INCONCLUSIVE in outcomes or not verdicts else 0


def _against_closed(scenario: Scenario, seen: Observation, heartbeat: int) -> Iterator[str]:
    if seen.survived:
        yield "the connection survived although it was expected to be closed"
    elif not seen.broker.missed_heartbeats:
        yield f"closed, but not for missed heartbeats: {seen.broker.reason or 'no reason logged'}"
    # The cause is part of the expectation: a green thread fails because its hub is parked.
    elif scenario.is_green and seen.green is not None and seen.green.worst < heartbeat:
        yield (
            f"closed although the green thread was at most {seen.green.worst:.2f} s late: "
            "the parked hub does not explain it"
        )
    if scenario.warns and WARNING_EVENT not in _event_kinds(seen):
        yield "hbshim did not warn about the worker that was forced"


def _against_alive(seen: Observation) -> Iterator[str]:
    if not seen.survived:
        yield f"the connection was closed: {seen.broker.reason or 'no reason logged'}"
    if seen.failed_requests:
        errors = [
            request.error or "no error reported" for request in seen.requests if request.failed
        ]
        yield f"failed requests: {seen.failed_requests} ({', '.join(errors)})"
    if seen.messages.lost:
        yield f"lost messages: {seen.messages.lost} of {seen.messages.asked}"
    if seen.broker.connections > seen.broker.kept:
        kept = "one" if seen.broker.kept == 1 else str(seen.broker.kept)
        yield f"the cell opened {seen.broker.connections} connections instead of keeping {kept}"
    if seen.wire.errors:
        yield f"incomplete AMQP frames on the wire: {'; '.join(seen.wire.errors)}"


def _event_kinds(seen: Observation) -> set[str]:
    return {event["kind"] for event in (seen.shim or {}).get("events", ())}


def _describe(seen: Observation, heartbeat: int) -> str:
    if seen.problems:
        return "not measured"
    if seen.survived:
        return f"open after {(seen.silence[1] - seen.silence[0]) / heartbeat:.1f} T"
    closed, heard = seen.broker.closed, seen.client_last_heard
    if closed is None:
        return "gone, not in the log"
    if heard is None:
        return "closed"
    return f"closed after {(closed - heard) / heartbeat:.1f} T"


def _notes(scenario: Scenario, seen: Observation, heartbeat: int) -> Iterator[str]:
    if seen.messages.swallowed:
        yield f"{seen.messages.swallowed} messages were accepted and never arrived"
    if scenario.deployment.oslo and not seen.survived:
        yield _reconnected(seen)
    if seen.shim is not None and not seen.wire.visible:
        heartbeats = seen.shim["counters"].get("heartbeats_sent", 0)
        yield f"the wire is encrypted; hbshim recorded {heartbeats} heartbeats sent"
    if error := seen.keepalive.get("error"):
        yield f"the thread ended with {error['type']}: {error['message']}"
    if seen.native is not None and seen.native.worst > heartbeat / 2:
        yield (
            f"the native thread was {seen.native.worst:.1f} s late: the machine was overloaded; "
            "repeat the run on a quieter one"
        )


def _reconnected(seen: Observation) -> str:
    """Return what a request cost that succeeded because the driver reconnected."""
    broker, ended = seen.broker, seen.silence[1]
    closed = sum(life.closed is not None and life.closed <= ended for life in broker.lives)
    took = seen.requests[-1].ended - seen.requests[-1].began
    return (
        f"{closed} of its {broker.kept} connections were closed; in the second request, which "
        f"took {took:.1f} s, the driver opened {broker.connections - broker.kept} anew"
    )
