"""What may happen to a link, as one table: (state, event) -> (state, action).

Pure: no clock, no socket, no lock. The link samples the world, :func:`classify`
names what it saw, :data:`TABLE` says what is legal, :func:`next_check` says when
to look again. Time is always an argument, in seconds.

The rules, with T the negotiated heartbeat timeout:

* beat after T/2 of silence (RabbitMQ's heartbeat guide: "Heartbeat frames are
  sent about every heartbeat timeout / 2 seconds");
* a peer is dead after 2 T without a byte (AMQP 0-9-1 section 4.2.7: "If a peer
  detects no incoming traffic (i.e. received octets) for two heartbeat intervals
  or longer, it should close the connection");
* unless that silence is our own fault: bytes that nobody read yet may have
  closed our receive window, and then the peer *cannot* send. Once they are read,
  it has 2 T from there: its kernel must learn first that the window is open.
  What is too little to close the window excuses nothing;
* with a liveness timeout above 0, a link whose application has not ticked for that
  long is not beaten until it ticks again. All else goes on.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from hbshim.heartbeat.schedule import SLOT

#: How soon to look again while bytes are moving, as a share of T and at most.
RECHECK_SHARE = 1 / 8
RECHECK_AT_MOST = 0.25

#: A beat may go out this many seconds early: looks come a tick early at most, and the
#: kernel's ages in steps of some milliseconds.
EARLY = SLOT + 1 / 64


class State(enum.Enum):
    """Life of one link."""

    # Members are singletons, and keys of the table at every look: `Enum` hashes the
    # name in Python code instead.
    __hash__ = object.__hash__

    ALIVE = "alive"
    HUNG = "hung"  # the application does not tick, so nobody beats in its place
    LOST = "lost"  # the peer closed or fell silent; our side is shut down
    CLOSED = "closed"  # the application closed it
    ORPHANED = "orphaned"  # we are a forked child; the stream belongs to the parent


class Event(enum.Enum):
    """What one look at a link found, the weightiest thing first."""

    __hash__ = object.__hash__

    FORKED = "forked"
    APPLICATION_CLOSED = "application-closed"
    PEER_CLOSED = "peer-closed"
    SILENT = "silent"
    HUNG = "hung"  # the application has not ticked for the liveness timeout
    MOVING = "moving"  # a writer is in, or bytes are still in the send queue
    DUE = "due"
    FRESH = "fresh"


class Action(enum.Enum):
    """What the look leads to."""

    WAIT = "wait"
    SEND = "send"
    SHUT_WRITE = "shut-write"  # what the peer said before it closed stays readable
    SHUT_BOTH = "shut-both"  # a blocked reader wakes up, the next call fails at once
    FORGET = "forget"
    DROP = "drop"  # close our copy of the descriptor, send nothing on it


TABLE: dict[tuple[State, Event], tuple[State, Action]] = {
    (State.ALIVE, Event.FRESH): (State.ALIVE, Action.WAIT),
    (State.ALIVE, Event.MOVING): (State.ALIVE, Action.WAIT),
    (State.ALIVE, Event.DUE): (State.ALIVE, Action.SEND),
    (State.ALIVE, Event.HUNG): (State.HUNG, Action.WAIT),
    (State.ALIVE, Event.SILENT): (State.LOST, Action.SHUT_BOTH),
    (State.ALIVE, Event.PEER_CLOSED): (State.LOST, Action.SHUT_WRITE),
    (State.ALIVE, Event.APPLICATION_CLOSED): (State.CLOSED, Action.FORGET),
    (State.ALIVE, Event.FORKED): (State.ORPHANED, Action.DROP),
    # Every look that does not find it hung finds that the application has ticked.
    (State.HUNG, Event.FRESH): (State.ALIVE, Action.WAIT),
    (State.HUNG, Event.MOVING): (State.ALIVE, Action.WAIT),
    (State.HUNG, Event.DUE): (State.ALIVE, Action.SEND),
    (State.HUNG, Event.HUNG): (State.HUNG, Action.WAIT),
    (State.HUNG, Event.SILENT): (State.LOST, Action.SHUT_BOTH),
    (State.HUNG, Event.PEER_CLOSED): (State.LOST, Action.SHUT_WRITE),
    (State.HUNG, Event.APPLICATION_CLOSED): (State.CLOSED, Action.FORGET),
    (State.HUNG, Event.FORKED): (State.ORPHANED, Action.DROP),
    # A lost link is beaten no more, whatever the kernel still says of it.
    (State.LOST, Event.FRESH): (State.LOST, Action.FORGET),
    (State.LOST, Event.MOVING): (State.LOST, Action.FORGET),
    (State.LOST, Event.DUE): (State.LOST, Action.FORGET),
    (State.LOST, Event.HUNG): (State.LOST, Action.FORGET),
    (State.LOST, Event.SILENT): (State.LOST, Action.FORGET),
    (State.LOST, Event.PEER_CLOSED): (State.LOST, Action.FORGET),
    (State.LOST, Event.APPLICATION_CLOSED): (State.CLOSED, Action.FORGET),
    (State.LOST, Event.FORKED): (State.ORPHANED, Action.DROP),
    # Closed and orphaned are final.
    **{(State.CLOSED, event): (State.CLOSED, Action.FORGET) for event in Event},
    **{(State.ORPHANED, event): (State.ORPHANED, Action.FORGET) for event in Event},
}

#: States in which a link goes on being looked at.
WATCHED = frozenset({State.ALIVE, State.HUNG})


class Sample(NamedTuple):
    """One look at a link. Ages are in seconds.

    Attributes:
        sent_ago: since the last byte left for the peer.
        received_ago: since the last byte arrived, read by the client or not.
        acked_ago: since the peer's kernel last acknowledged anything; None where
            the platform does not tell.
        queued: bytes or segments of ours that the peer has not acknowledged.
        in_flight: those of them that were sent; while the peer's window is closed,
            bytes queue up and none is in flight.
        unread: bytes that the client has not read yet, if they may have closed our window.
        unread_ago: since there were such bytes for all we know; 0 while there are.
        writing: a write of the client is under way, or half a frame is buffered.
        peer_closed: the peer has sent FIN or RST.
        closed: the application closed the connection.
        forked: this process is not the one that opened the connection.
        marked_ago: since the application showed that it is alive.
    """

    sent_ago: float
    received_ago: float
    acked_ago: float | None
    queued: int
    in_flight: int
    unread: int
    unread_ago: float
    writing: bool
    peer_closed: bool
    closed: bool = False
    forked: bool = False
    marked_ago: float = 0.0


def due_after(timeout: float) -> float:
    """Seconds of silence of ours after which a beat is due, T being `timeout` seconds."""
    return timeout / 2 - EARLY


def recheck_after(timeout: float) -> float:
    """Seconds until the next look where bytes are moving, T being `timeout` seconds."""
    return min(RECHECK_SHARE * timeout, RECHECK_AT_MOST)


def silent(sample: Sample, timeout: float) -> bool:
    """Whether the peer must be called dead, `timeout` being T in seconds.

    Unread bytes excuse the peer, because our own closed window may be what
    silences it. Nothing excuses a peer whose *kernel* has not acknowledged what
    we sent it for as long.
    """
    limit = 2 * timeout
    if sample.received_ago < limit:
        return False
    if sample.unread_ago >= limit:
        return True
    # In flight, not queued: a closed window is probed ever more rarely, up to
    # once in two minutes, and only those probes are acknowledged.
    return bool(sample.in_flight) and sample.acked_ago is not None and sample.acked_ago >= limit


def classify(sample: Sample, timeout: float, liveness: float = 0.0) -> Event:
    """Name the weightiest thing in `sample`, for a link whose T is `timeout` seconds.

    Parameters:
        liveness: seconds without a tick after which the application is hung; 0 for never.
    """
    if sample.forked:
        return Event.FORKED
    if sample.closed:
        return Event.APPLICATION_CLOSED
    if sample.peer_closed:
        return Event.PEER_CLOSED
    if silent(sample, timeout):
        return Event.SILENT
    if liveness and sample.marked_ago >= liveness:
        return Event.HUNG
    if sample.writing or sample.queued:
        return Event.MOVING
    if sample.sent_ago >= due_after(timeout):
        return Event.DUE
    return Event.FRESH


def next_check(event: Event, sample: Sample, timeout: float, liveness: float = 0.0) -> float | None:
    """Seconds until the link wants another look; None for never again."""
    pause = _next_check(event, sample, timeout)
    if pause is None or not liveness or event is Event.HUNG:
        return pause
    return min(pause, liveness - sample.marked_ago)


def _next_check(event: Event, sample: Sample, timeout: float) -> float | None:
    until_dead = 2 * timeout - sample.received_ago
    if until_dead <= 0:  # and excused
        until_dead = RECHECK_SHARE * timeout
    if event is Event.MOVING:
        return recheck_after(timeout)
    if event is Event.HUNG:
        # The beat that is overdue when the application ticks again should still come in time.
        return min(RECHECK_SHARE * timeout, until_dead)
    if event is Event.DUE:
        return min(timeout / 2, until_dead)
    if event is Event.FRESH:
        return min(timeout / 2 - sample.sent_ago, until_dead)
    return None
