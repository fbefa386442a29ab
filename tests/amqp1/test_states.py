"""The tables are complete, and hold the rules of the specification."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from hbshim.amqp1.errors import ProtocolError, StateError
from hbshim.amqp1.states import (
    CONNECTION,
    DELIVERY,
    LINK,
    SESSION,
    Action,
    ConnectionEvent,
    ConnectionState,
    DeliveryEvent,
    DeliveryPhase,
    LinkEvent,
    LinkState,
    SessionEvent,
    SessionState,
    advance,
)

#: Each table with its states, its events, its first state and its last one.
TABLES: dict[str, tuple[Any, Any, Any, Any, Any]] = {
    "connection": (
        CONNECTION,
        ConnectionState,
        ConnectionEvent,
        ConnectionState.START,
        ConnectionState.END,
    ),
    "session": (SESSION, SessionState, SessionEvent, SessionState.UNMAPPED, SessionState.ENDED),
    "link": (LINK, LinkState, LinkEvent, LinkState.DETACHED, LinkState.ENDED),
    "delivery": (
        DELIVERY,
        DeliveryPhase,
        DeliveryEvent,
        DeliveryPhase.PARTIAL,
        DeliveryPhase.SETTLED,
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_state_meets_every_event(name: str) -> None:
    table, states, events, _, _ = TABLES[name]
    assert set(table) == set(itertools.product(states, events))


@pytest.mark.parametrize("name", TABLES)
def test_every_state_is_reached_and_the_last_one_is_not_left(name: str) -> None:
    table, states, events, first, last = TABLES[name]
    reached, more = set(), {first}
    while more:
        reached |= more
        more = {table[state, event][0] for state in more for event in events} - reached
    assert reached == set(states)
    assert {table[last, event][0] for event in events} == {last}


@pytest.mark.parametrize("name", TABLES)
def test_what_is_refused_changes_no_state(name: str) -> None:
    table, _, _, _, _ = TABLES[name]
    for (before, event), (after, action) in table.items():
        if action is Action.REFUSE:
            assert after is before, event


@pytest.mark.parametrize("name", TABLES)
def test_only_what_arrives_is_answered(name: str) -> None:
    table, _, _, _, _ = TABLES[name]
    answered = {event.name for (_, event), (_, action) in table.items() if action is Action.ANSWER}
    assert all(each.startswith("RECEIVE") for each in answered)


def test_nothing_but_close_is_sent_after_close() -> None:
    for state in (ConnectionState.CLOSE_PIPE, ConnectionState.CLOSE_SENT, ConnectionState.END):
        for event in (ConnectionEvent.SEND_OPEN, ConnectionEvent.SEND_FRAME):
            assert CONNECTION[state, event][1] is Action.REFUSE


def test_a_lost_stream_ends_every_connection() -> None:
    for state in ConnectionState:
        assert CONNECTION[state, ConnectionEvent.LOSE][0] is ConnectionState.END


def test_messages_are_sent_on_attached_links_only() -> None:
    sending = {state for state in LinkState if LINK[state, LinkEvent.SEND_FRAME][1] is Action.DO}
    assert sending == {LinkState.ATTACHED}


def test_what_is_refused_is_an_error_of_the_side_that_did_it() -> None:
    with pytest.raises(StateError, match="cannot send open: 'its owner'"):
        advance(CONNECTION, ConnectionState.END, ConnectionEvent.SEND_OPEN, "its owner")
    with pytest.raises(ProtocolError, match="cannot receive end: 'its owner'"):
        advance(SESSION, SessionState.BEGIN_SENT, SessionEvent.RECEIVE_END, "its owner")
