"""What may happen to a connection, session, link and delivery: (state, event) -> (state, action).

Each table is complete: what AMQP 1.0 does not allow is there as `REFUSE`. The states are
those of the specification (2.4.6 for connections, 2.5.5 for sessions), without those that this
engine never rests in: it answers `Begin`, `Detach`, `End` and `Close` at once.
"""

from __future__ import annotations

import enum
from typing import TypeAlias, TypeVar

from hbshim.amqp1.errors import ILLEGAL_STATE, ProtocolError, StateError


class Action(enum.Enum):
    """What is done with an event."""

    DO = "do"  # send it, or handle what arrived
    ANSWER = "answer"  # handle what arrived, and send the same
    IGNORE = "ignore"  # it crossed with what this side sent, or has been done already
    REFUSE = "refuse"  # the caller gets an error; what arrived ends the connection


class ConnectionState(enum.Enum):
    """The state of a connection, after SASL."""

    __hash__ = object.__hash__

    START = "start"
    HEADER_SENT = "header-sent"
    HEADER_RECEIVED = "header-received"
    HEADER_EXCHANGED = "header-exchanged"
    OPEN_PIPE = "open-pipe"  # header and open are sent, nothing has arrived
    OPEN_SENT = "open-sent"
    OPEN_RECEIVED = "open-received"
    OPENED = "opened"
    CLOSE_PIPE = "close-pipe"  # header, open and close are sent, nothing has arrived
    CLOSE_EARLY = "close-early"  # close is sent, and open has not arrived
    CLOSE_SENT = "close-sent"
    END = "end"


class ConnectionEvent(enum.Enum):
    """What is sent or arrives on a connection."""

    __hash__ = object.__hash__

    SEND_HEADER = "send header"
    SEND_OPEN = "send open"
    SEND_FRAME = "send another frame"
    SEND_CLOSE = "send close"
    RECEIVE_HEADER = "receive header"
    RECEIVE_OPEN = "receive open"
    RECEIVE_FRAME = "receive another frame"
    RECEIVE_CLOSE = "receive close"
    LOSE = "lose the stream"


class SessionState(enum.Enum):
    """The state of a session."""

    __hash__ = object.__hash__

    UNMAPPED = "unmapped"
    BEGIN_SENT = "begin-sent"
    MAPPED = "mapped"
    END_SENT = "end-sent"
    ENDED = "ended"


class SessionEvent(enum.Enum):
    """What is sent or arrives on a session."""

    __hash__ = object.__hash__

    SEND_BEGIN = "send begin"
    SEND_FRAME = "send another frame"
    SEND_END = "send end"
    RECEIVE_BEGIN = "receive begin"
    RECEIVE_FRAME = "receive another frame"
    RECEIVE_END = "receive end"


class LinkState(enum.Enum):
    """The state of a link."""

    __hash__ = object.__hash__

    DETACHED = "detached"
    ATTACH_SENT = "attach-sent"
    ATTACH_RECEIVED = "attach-received"
    ATTACHED = "attached"
    DETACH_SENT = "detach-sent"
    ENDED = "ended"


class LinkEvent(enum.Enum):
    """What is sent or arrives on a link."""

    __hash__ = object.__hash__

    SEND_ATTACH = "send attach"
    SEND_FRAME = "send flow or transfer"
    SEND_DETACH = "send detach"
    RECEIVE_ATTACH = "receive attach"
    RECEIVE_FRAME = "receive flow or transfer"
    RECEIVE_DETACH = "receive detach"


class DeliveryPhase(enum.Enum):
    """How far a delivery has come; what the peer makes of it is a `DeliveryState`."""

    __hash__ = object.__hash__

    PARTIAL = "partial"  # not all of its frames are sent, or have arrived
    UNSETTLED = "unsettled"
    SETTLED = "settled"


class DeliveryEvent(enum.Enum):
    """What becomes of a delivery."""

    __hash__ = object.__hash__

    COMPLETE = "send or receive the last frame"
    SEND_STATE = "send a state"
    SEND_SETTLED = "settle it"
    RECEIVE_STATE = "receive a state"
    RECEIVE_SETTLED = "receive that it is settled"


S = TypeVar("S", bound=enum.Enum)
E = TypeVar("E", bound=enum.Enum)
Table: TypeAlias = dict[tuple[S, E], tuple[S, Action]]


def advance(table: Table[S, E], state: S, event: E, owner: object) -> tuple[S, Action]:
    """Return the next state of `owner`, and what is done with the event.

    Raises:
        StateError: this side must not send that now.
        ProtocolError: the peer must not.
    """
    after, action = table[state, event]
    if action is Action.REFUSE:
        text = f"cannot {event.value}: {owner!r}"
        if event.name.startswith("RECEIVE"):
            raise ProtocolError(text, ILLEGAL_STATE)
        raise StateError(text)
    return after, action


def _refused(states: type[S], events: type[E]) -> Table[S, E]:
    """Return a table in which nothing is allowed."""
    return {(state, event): (state, Action.REFUSE) for state in states for event in events}


_CS, _CE = ConnectionState, ConnectionEvent
CONNECTION: Table[ConnectionState, ConnectionEvent] = _refused(_CS, _CE) | {
    # Without Open, there is nothing to close.
    **{(state, _CE.SEND_CLOSE): (_CS.END, Action.IGNORE) for state in _CS},
    **{(state, _CE.LOSE): (_CS.END, Action.DO) for state in _CS},
    (_CS.START, _CE.SEND_HEADER): (_CS.HEADER_SENT, Action.DO),
    (_CS.START, _CE.RECEIVE_HEADER): (_CS.HEADER_RECEIVED, Action.DO),
    (_CS.HEADER_SENT, _CE.SEND_OPEN): (_CS.OPEN_PIPE, Action.DO),
    (_CS.HEADER_SENT, _CE.RECEIVE_HEADER): (_CS.HEADER_EXCHANGED, Action.DO),
    (_CS.HEADER_RECEIVED, _CE.SEND_HEADER): (_CS.HEADER_EXCHANGED, Action.DO),
    (_CS.HEADER_EXCHANGED, _CE.SEND_OPEN): (_CS.OPEN_SENT, Action.DO),
    (_CS.HEADER_EXCHANGED, _CE.RECEIVE_OPEN): (_CS.OPEN_RECEIVED, Action.DO),
    (_CS.OPEN_PIPE, _CE.RECEIVE_HEADER): (_CS.OPEN_SENT, Action.DO),
    (_CS.OPEN_PIPE, _CE.SEND_CLOSE): (_CS.CLOSE_PIPE, Action.DO),
    (_CS.OPEN_SENT, _CE.RECEIVE_OPEN): (_CS.OPENED, Action.DO),
    (_CS.OPEN_SENT, _CE.SEND_CLOSE): (_CS.CLOSE_EARLY, Action.DO),
    # Not allowed before Open, but its error has more information than one of this side would.
    (_CS.OPEN_SENT, _CE.RECEIVE_CLOSE): (_CS.END, Action.ANSWER),
    (_CS.OPEN_RECEIVED, _CE.SEND_OPEN): (_CS.OPENED, Action.DO),
    (_CS.OPENED, _CE.SEND_FRAME): (_CS.OPENED, Action.DO),
    (_CS.OPENED, _CE.SEND_CLOSE): (_CS.CLOSE_SENT, Action.DO),
    (_CS.OPENED, _CE.RECEIVE_FRAME): (_CS.OPENED, Action.DO),
    (_CS.OPENED, _CE.RECEIVE_CLOSE): (_CS.END, Action.ANSWER),
    (_CS.CLOSE_PIPE, _CE.SEND_CLOSE): (_CS.CLOSE_PIPE, Action.IGNORE),
    (_CS.CLOSE_PIPE, _CE.RECEIVE_HEADER): (_CS.CLOSE_EARLY, Action.DO),
    (_CS.CLOSE_EARLY, _CE.SEND_CLOSE): (_CS.CLOSE_EARLY, Action.IGNORE),
    (_CS.CLOSE_EARLY, _CE.RECEIVE_OPEN): (_CS.CLOSE_SENT, Action.IGNORE),
    (_CS.CLOSE_EARLY, _CE.RECEIVE_CLOSE): (_CS.END, Action.DO),
    (_CS.CLOSE_SENT, _CE.SEND_CLOSE): (_CS.CLOSE_SENT, Action.IGNORE),
    (_CS.CLOSE_SENT, _CE.RECEIVE_FRAME): (_CS.CLOSE_SENT, Action.IGNORE),
    (_CS.CLOSE_SENT, _CE.RECEIVE_CLOSE): (_CS.END, Action.DO),
    (_CS.END, _CE.LOSE): (_CS.END, Action.IGNORE),
    (_CS.END, _CE.RECEIVE_FRAME): (_CS.END, Action.IGNORE),
}

_SS, _SE = SessionState, SessionEvent
SESSION: Table[SessionState, SessionEvent] = _refused(_SS, _SE) | {
    (_SS.UNMAPPED, _SE.SEND_BEGIN): (_SS.BEGIN_SENT, Action.DO),
    (_SS.UNMAPPED, _SE.RECEIVE_BEGIN): (_SS.MAPPED, Action.ANSWER),
    (_SS.BEGIN_SENT, _SE.SEND_FRAME): (_SS.BEGIN_SENT, Action.DO),
    (_SS.BEGIN_SENT, _SE.SEND_END): (_SS.END_SENT, Action.DO),
    (_SS.BEGIN_SENT, _SE.RECEIVE_BEGIN): (_SS.MAPPED, Action.DO),
    (_SS.MAPPED, _SE.SEND_FRAME): (_SS.MAPPED, Action.DO),
    (_SS.MAPPED, _SE.SEND_END): (_SS.END_SENT, Action.DO),
    (_SS.MAPPED, _SE.RECEIVE_FRAME): (_SS.MAPPED, Action.DO),
    (_SS.MAPPED, _SE.RECEIVE_END): (_SS.ENDED, Action.ANSWER),
    (_SS.END_SENT, _SE.SEND_END): (_SS.END_SENT, Action.IGNORE),
    (_SS.END_SENT, _SE.RECEIVE_BEGIN): (_SS.END_SENT, Action.IGNORE),
    (_SS.END_SENT, _SE.RECEIVE_FRAME): (_SS.END_SENT, Action.IGNORE),
    (_SS.END_SENT, _SE.RECEIVE_END): (_SS.ENDED, Action.DO),
    (_SS.ENDED, _SE.SEND_END): (_SS.ENDED, Action.IGNORE),
}

_LS, _LE = LinkState, LinkEvent
LINK: Table[LinkState, LinkEvent] = _refused(_LS, _LE) | {
    (_LS.DETACHED, _LE.SEND_ATTACH): (_LS.ATTACH_SENT, Action.DO),
    (_LS.DETACHED, _LE.RECEIVE_ATTACH): (_LS.ATTACH_RECEIVED, Action.DO),
    (_LS.ATTACH_SENT, _LE.SEND_DETACH): (_LS.DETACH_SENT, Action.DO),
    (_LS.ATTACH_SENT, _LE.RECEIVE_ATTACH): (_LS.ATTACHED, Action.DO),
    (_LS.ATTACH_RECEIVED, _LE.SEND_ATTACH): (_LS.ATTACHED, Action.DO),
    # A receiver may give credit behind its attach.
    (_LS.ATTACH_RECEIVED, _LE.RECEIVE_FRAME): (_LS.ATTACH_RECEIVED, Action.DO),
    (_LS.ATTACH_RECEIVED, _LE.RECEIVE_DETACH): (_LS.ENDED, Action.ANSWER),
    (_LS.ATTACHED, _LE.SEND_FRAME): (_LS.ATTACHED, Action.DO),
    (_LS.ATTACHED, _LE.SEND_DETACH): (_LS.DETACH_SENT, Action.DO),
    (_LS.ATTACHED, _LE.RECEIVE_FRAME): (_LS.ATTACHED, Action.DO),
    (_LS.ATTACHED, _LE.RECEIVE_DETACH): (_LS.ENDED, Action.ANSWER),
    (_LS.DETACH_SENT, _LE.SEND_DETACH): (_LS.DETACH_SENT, Action.IGNORE),
    (_LS.DETACH_SENT, _LE.RECEIVE_ATTACH): (_LS.DETACH_SENT, Action.IGNORE),
    (_LS.DETACH_SENT, _LE.RECEIVE_FRAME): (_LS.DETACH_SENT, Action.IGNORE),
    (_LS.DETACH_SENT, _LE.RECEIVE_DETACH): (_LS.ENDED, Action.DO),
    (_LS.ENDED, _LE.SEND_DETACH): (_LS.ENDED, Action.IGNORE),
}

_DP, _DE = DeliveryPhase, DeliveryEvent
DELIVERY: Table[DeliveryPhase, DeliveryEvent] = {
    (_DP.PARTIAL, _DE.COMPLETE): (_DP.UNSETTLED, Action.DO),
    (_DP.PARTIAL, _DE.SEND_STATE): (_DP.PARTIAL, Action.DO),
    (_DP.PARTIAL, _DE.SEND_SETTLED): (_DP.SETTLED, Action.DO),
    (_DP.PARTIAL, _DE.RECEIVE_STATE): (_DP.PARTIAL, Action.DO),
    (_DP.PARTIAL, _DE.RECEIVE_SETTLED): (_DP.SETTLED, Action.DO),
    (_DP.UNSETTLED, _DE.COMPLETE): (_DP.UNSETTLED, Action.REFUSE),
    (_DP.UNSETTLED, _DE.SEND_STATE): (_DP.UNSETTLED, Action.DO),
    (_DP.UNSETTLED, _DE.SEND_SETTLED): (_DP.SETTLED, Action.DO),
    (_DP.UNSETTLED, _DE.RECEIVE_STATE): (_DP.UNSETTLED, Action.DO),
    (_DP.UNSETTLED, _DE.RECEIVE_SETTLED): (_DP.SETTLED, Action.DO),
    # The other side may have settled it meanwhile.
    **{(_DP.SETTLED, event): (_DP.SETTLED, Action.IGNORE) for event in _DE},
}
