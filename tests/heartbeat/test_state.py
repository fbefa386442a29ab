"""The table is complete, and each rule of it holds at its edge."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from hbshim.heartbeat.state import (
    TABLE,
    Action,
    Event,
    Sample,
    State,
    classify,
    next_check,
    silent,
)

T = 10.0
QUIET = Sample(
    sent_ago=1,
    received_ago=1,
    acked_ago=1,
    queued=0,
    in_flight=0,
    unread=0,
    unread_ago=99,
    writing=False,
    peer_closed=False,
)


def test_every_state_meets_every_event() -> None:
    assert set(TABLE) == set(itertools.product(State, Event))


def test_only_a_link_that_is_alive_or_comes_back_gets_heartbeats() -> None:
    kept_alive = {key: after for key, (after, action) in TABLE.items() if action is Action.SEND}
    assert set(kept_alive) == {(State.ALIVE, Event.DUE), (State.HUNG, Event.DUE)}
    assert set(kept_alive.values()) == {State.ALIVE}


def test_only_activity_brings_a_hung_link_back() -> None:
    back = {event for event in Event if TABLE[State.HUNG, event][0] is State.ALIVE}
    assert back == {Event.FRESH, Event.MOVING, Event.DUE}
    for change in ({}, {"writing": True}, {"sent_ago": 9}):
        sample = QUIET._replace(marked_ago=30, **change)
        assert classify(sample, T, liveness=30) is Event.HUNG
        assert classify(sample._replace(marked_ago=29.9), T, liveness=30) in back


def test_without_the_rule_no_link_is_hung() -> None:
    assert classify(QUIET._replace(marked_ago=1e9), T) is Event.FRESH


@pytest.mark.parametrize(
    ("change", "event"),
    [
        ({"received_ago": 20.0}, Event.SILENT),
        ({"peer_closed": True}, Event.PEER_CLOSED),
        ({"closed": True}, Event.APPLICATION_CLOSED),
        ({"forked": True}, Event.FORKED),
    ],
)
def test_a_hung_application_hides_nothing_weightier(change: dict[str, Any], event: Event) -> None:
    assert classify(QUIET._replace(marked_ago=99, **change), T, liveness=30) is event


def test_the_application_is_checked_when_it_would_be_hung() -> None:
    assert next_check(Event.FRESH, QUIET._replace(marked_ago=28), T, 30) == pytest.approx(2)
    assert next_check(Event.FRESH, QUIET._replace(marked_ago=1), T, 30) == pytest.approx(4)
    assert next_check(Event.PEER_CLOSED, QUIET, T, 30) is None


def test_a_hung_application_is_checked_often_enough_for_the_next_heartbeat() -> None:
    assert next_check(Event.HUNG, QUIET._replace(marked_ago=99), T, 30) == pytest.approx(T / 8)
    nearly_dead = QUIET._replace(marked_ago=99, received_ago=19.5)
    assert next_check(Event.HUNG, nearly_dead, T, 30) == pytest.approx(0.5)


@pytest.mark.parametrize("state", [State.CLOSED, State.ORPHANED])
def test_final_states_lead_nowhere(state: State) -> None:
    assert {TABLE[state, event] for event in Event} == {(state, Action.FORGET)}


@pytest.mark.parametrize(
    ("change", "event"),
    [
        ({}, Event.FRESH),
        ({"sent_ago": 4.8}, Event.FRESH),
        ({"sent_ago": 4.9}, Event.DUE),
        ({"sent_ago": 9, "writing": True}, Event.MOVING),
        ({"sent_ago": 9, "queued": 1}, Event.MOVING),
        ({"received_ago": 19.99}, Event.FRESH),
        ({"received_ago": 20.0}, Event.SILENT),
        ({"received_ago": 20.0, "writing": True}, Event.SILENT),
        ({"received_ago": 99.0, "unread": 8, "unread_ago": 0}, Event.FRESH),
        ({"received_ago": 99.0, "peer_closed": True}, Event.PEER_CLOSED),
        ({"closed": True, "peer_closed": True}, Event.APPLICATION_CLOSED),
        ({"closed": True, "forked": True}, Event.FORKED),
    ],
)
def test_the_weightiest_thing_is_named(change: dict[str, Any], event: Event) -> None:
    assert classify(QUIET._replace(**change), T) is event


def test_unread_bytes_excuse_silence_unless_the_kernel_is_silent_too() -> None:
    waiting = QUIET._replace(received_ago=30, unread=800, unread_ago=0)
    assert not silent(waiting, T)
    assert not silent(waiting._replace(in_flight=1, acked_ago=19.9), T)
    assert silent(waiting._replace(in_flight=1, acked_ago=20), T)
    assert not silent(waiting._replace(in_flight=1, acked_ago=None), T)


def test_a_closed_window_of_the_peer_is_not_silence_of_its_kernel() -> None:
    waiting = QUIET._replace(received_ago=30, unread=800, unread_ago=0)
    assert not silent(waiting._replace(queued=4_000_000, in_flight=0, acked_ago=60), T)


def test_a_peer_that_was_kept_from_sending_has_2_t_from_there() -> None:
    just_read = QUIET._replace(received_ago=100, unread=0)
    assert not silent(just_read._replace(unread_ago=0.001), T)
    assert not silent(just_read._replace(unread_ago=19.9), T)
    assert silent(just_read._replace(unread_ago=20), T)


def test_a_heartbeat_is_due_again_after_half_of_t() -> None:
    assert next_check(Event.DUE, QUIET, T) == T / 2


def test_a_fresh_link_is_checked_when_its_heartbeat_falls_due() -> None:
    assert next_check(Event.FRESH, QUIET._replace(sent_ago=2), T) == pytest.approx(3)


def test_a_silent_peer_is_checked_when_it_must_be_called_dead() -> None:
    assert next_check(Event.DUE, QUIET._replace(sent_ago=5, received_ago=18), T) == pytest.approx(2)


@pytest.mark.parametrize("event", [Event.FRESH, Event.DUE, Event.HUNG])
@pytest.mark.parametrize("silence", [2 * T, 1.0])
def test_a_peer_that_was_spared_for_unread_bytes_is_checked_when_that_ends(
    event: Event, silence: float
) -> None:
    """Not an eighth of T later, which is long where the peer's own time is short."""
    read = QUIET._replace(received_ago=silence + 0.001, unread_ago=silence - 0.01)
    assert classify(read, T, silence=silence) is not Event.SILENT
    assert next_check(event, read, T, silence=silence) == pytest.approx(0.01)
    unread = read._replace(unread=9, unread_ago=0)
    assert next_check(event, unread, T, silence=silence) == pytest.approx(min(T / 8, silence))


def test_moving_bytes_are_checked_soon() -> None:
    assert next_check(Event.MOVING, QUIET, 60.0) == pytest.approx(0.25)
    assert next_check(Event.MOVING, QUIET, 1.0) == pytest.approx(0.125)


@pytest.mark.parametrize("event", [Event.SILENT, Event.PEER_CLOSED, Event.APPLICATION_CLOSED])
def test_an_ended_link_is_not_checked_again(event: Event) -> None:
    assert next_check(event, QUIET, T) is None
