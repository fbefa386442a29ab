"""Each way to break the invariant is found, and what is allowed is not."""

from __future__ import annotations

import pytest

from tests.stress.chaos.faults import FAULTS, Fault
from tests.stress.chaos.invariant import Position, SessionResult, check_invariant
from tests.stress.chaos.journal import Entry, Journal

T = 2
PLACE = Position("s", "zone", "process", "steady")
#: Deaf from second 10 to 18; deaths must be known at 15.
DEAF = Fault(FAULTS["deaf"], "zone", 10.0, 10.0, 18.0, 18.0)
UP = Entry("up", "s", 1.0, 1, began=0.9)
OVER = [Entry("up", "s", 20.0, 2, began=19.9), Entry("over", "s", 30.0)]


def accepted(number: int, at: float, kind: str = "accepted") -> Entry:
    return Entry(kind, "s", at, 1, began=at, number=number)


def lost(at: float) -> Entry:
    return Entry("lost", "s", at, 1)


def tried(
    *entries: Entry,
    faults: list[Fault] | None = None,
    arrived: set[int] | None = None,
    heartbeats: dict[tuple[str, int], list[float]] | None = None,
) -> SessionResult:
    journals = {"process": Journal("process", list(entries))}
    faults = [DEAF] if faults is None else faults
    (session_result,) = check_invariant(
        T, faults, [PLACE], journals, {"s": arrived or set()}, heartbeats
    )
    return session_result


def rules(session_result: SessionResult) -> list[str]:
    return [violation.rule for violation in session_result.violations]


def test_a_death_known_in_time_excuses_what_was_accepted_before() -> None:
    session_result = tried(UP, accepted(1, 5), accepted(2, 11), lost(14.5), *OVER, arrived={1})
    assert rules(session_result) == []
    assert (session_result.accepted, session_result.arrived, session_result.excused) == (2, 1, 1)
    assert session_result.detections == [("deaf", 4.5)]


def test_a_death_known_too_late() -> None:
    session_result = tried(UP, accepted(1, 10.5), lost(15.6), *OVER)
    assert rules(session_result) == ["lost", "late"]


def test_a_dead_connection_that_is_never_reported() -> None:
    session_result = tried(UP, accepted(1, 11), *OVER)
    assert rules(session_result) == ["lost", "late"]


def test_a_confirmed_message_that_did_not_arrive_has_no_excuse() -> None:
    session_result = tried(UP, accepted(1, 11, "confirmed"), lost(14), *OVER)
    assert rules(session_result) == ["lost"]


def test_a_message_lost_before_anything_happened() -> None:
    assert rules(tried(UP, accepted(1, 5), lost(14), *OVER)) == ["lost"]


def test_a_death_without_a_fault() -> None:
    assert rules(tried(UP, lost(5), *OVER, faults=[])) == ["false-death"]
    hiccup = Fault(FAULTS["hiccup"], "zone", 4.0, 4.0, 5.0, 5.0)
    assert rules(tried(UP, lost(5), *OVER, faults=[hiccup])) == ["false-death"]


def test_a_fault_elsewhere_excuses_nothing() -> None:
    elsewhere = Fault(FAULTS["deaf"], "another", 10.0, 10.0, 18.0, 18.0)
    assert rules(tried(UP, lost(14), *OVER, faults=[elsewhere])) == ["false-death"]


def test_a_call_that_never_comes_back_in_time() -> None:
    stuck = Entry("refused", "s", 20.0, 1, began=11.0)
    assert rules(tried(UP, lost(14), stuck, *OVER)) == ["stuck"]


def test_calls_may_wait_for_the_end_of_an_alarm() -> None:
    alarm = Fault(FAULTS["alarm"], "", 10.0, 11.0, 20.0, 21.0)
    waited = Entry("confirmed", "s", 21.5, 1, began=10.5, number=1)
    assert rules(tried(UP, waited, OVER[-1], faults=[alarm], arrived={1})) == []


def test_a_stopped_process_must_know_when_it_goes_on() -> None:
    stopped = Fault(FAULTS["stopped"], "process", 10.0, 10.0, 19.0, 19.0)
    assert rules(tried(UP, lost(19.5), *OVER, faults=[stopped])) == []
    assert "late" in rules(tried(UP, lost(24.5), *OVER, faults=[stopped]))


def test_an_error_without_reconnection() -> None:
    down = Entry("down", "s", 14.0, 1, error="RuntimeError", recoverable=False)
    assert rules(tried(UP, down, *OVER)) == ["error"]


def test_a_session_that_never_came_back() -> None:
    assert rules(tried(UP, lost(14))) == ["gone"]


@pytest.mark.parametrize("closed", [12.0, 15.5])
def test_a_connection_closed_by_its_application_needs_no_death(closed: float) -> None:
    assert rules(tried(UP, Entry("closed", "s", closed, 1, began=11.9), *OVER)) == []


def test_a_death_while_the_application_closes_the_connection_is_none() -> None:
    """The broker has answered the close, and sends no heartbeats any more."""
    closed = Entry("closed", "s", 16.0, 1, began=11.9)
    assert rules(tried(UP, lost(15.9), closed, *OVER, faults=[])) == []
    assert rules(tried(UP, lost(11.8), closed, *OVER, faults=[])) == ["false-death"]


def test_a_silence_in_which_the_process_stood_still() -> None:
    stopped = Fault(FAULTS["stopped"], "process", 12.0, 12.0, 24.0, 24.0)
    faults = [DEAF, stopped]
    assert rules(tried(UP, lost(24.5), *OVER, faults=faults)) == []
    assert rules(tried(UP, lost(28.5), *OVER, faults=faults)) == ["late"]


@pytest.mark.parametrize(
    ("heartbeats", "found"), [([2.0, 6.5], []), ([2.0, 6.05], []), ([2.0, 4.5], ["false-death"])]
)
def test_a_broker_that_was_silent_by_itself_is_no_false_death(
    heartbeats: list[float], found: list[str]
) -> None:
    up = Entry("up", "s", 1.0, 1, began=0.9, port=7)
    session_result = tried(up, lost(6.1), *OVER, faults=[], heartbeats={("zone", 7): heartbeats})
    assert rules(session_result) == found
    assert session_result.truly_silent == (not found)


def test_starvation_by_the_machine_is_no_violation() -> None:
    journal = Journal("process", [UP, lost(16.5), *OVER])
    (session_result,) = check_invariant(T, [DEAF], [PLACE], {"process": journal}, {})
    assert rules(session_result) == ["late"]
    journal.starved.append((14.0, 1.8))
    (session_result,) = check_invariant(T, [DEAF], [PLACE], {"process": journal}, {})
    assert rules(session_result) == []


@pytest.mark.parametrize(("heartbeats", "found"), [([25.5], []), ([9.0], ["late", "late"])])
def test_a_silence_and_a_stop_that_a_connection_outlived(
    heartbeats: list[float], found: list[str]
) -> None:
    up = Entry("up", "s", 1.0, 1, began=0.9, port=7)
    paused = Fault(FAULTS["broker-paused"], "", 10.0, 10.2, 18.0, 18.2)
    stopped = Fault(FAULTS["stopped"], "process", 12.0, 12.0, 21.0, 21.0)
    over = Entry("over", "s", 40.0)
    session_result = tried(up, over, faults=[paused, stopped], heartbeats={("zone", 7): heartbeats})
    assert rules(session_result) == found
    confirmed = accepted(1, 25.0, "confirmed")
    assert rules(tried(up, confirmed, over, faults=[paused, stopped], arrived={1})) == []
