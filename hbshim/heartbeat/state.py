"""What may happen to a link, as one table: (state, event) -> (state, action).

Pure: no clock, no socket, no lock. The link takes a sample, :func:`classify` names the event,
:data:`TABLE` defines the transition, and :func:`next_check` returns when to check again. Time is
always an argument, in seconds.

The rules, with T the time within which the peer wants to receive something:

* A heartbeat is due after T/2 without a byte sent (RabbitMQ's heartbeat guide: "Heartbeat frames
  are sent about every heartbeat timeout / 2 seconds").
* A peer is dead after `silence` without a byte received. In AMQP 0-9-1 both sides agree on one T,
  and `silence` is 2 T (section 4.2.7: "If a peer detects no incoming traffic (i.e. received octets)
  for two heartbeat intervals or longer, it should close the connection"). In AMQP 1.0 each side
  advertises a time of its own (2.4.5): T is the peer's, and `silence` is twice this side's. It is
  infinite if this side advertised none, because an idle peer then sends nothing. A client library
  that would wait longer has its own `silence`: hbshim ends no connection that survives without it.
* Except if this side causes the silence: unread bytes may have closed the receive window, and
  then the peer *cannot* send. Once they are read, the peer has another `silence`, because its
  kernel must first learn that the window is open. Too few bytes to close the window are no
  exception.
* A peer whose kernel has not acknowledged bytes in flight for `silence`, or for 2 T where that is
  infinite, is dead in any case: it does not receive the heartbeats either.
* With a liveness timeout above 0, a link whose application was inactive for that long sends no
  heartbeat until the application is active again. Everything else continues.
"""

from __future__ import annotations

import enum
import math
from typing import NamedTuple

from hbshim.heartbeat.schedule import SLOT

#: Seconds until the next check while bytes are moving: as a share of T, and at most.
RECHECK_SHARE = 1 / 8
RECHECK_AT_MOST = 0.25

#: A heartbeat may be sent this many seconds early: a check may be up to one slot early, and the
#: kernel's ages have a resolution of some milliseconds.
EARLY = SLOT + 1 / 64


class State(enum.Enum):
    """The state of a link."""

    # Members are singletons, and keys of the table at every check: `Enum` hashes the name in
    # Python code instead.
    __hash__ = object.__hash__

    ALIVE = "alive"
    HUNG = "hung"  # the application is inactive, so no heartbeats are sent
    LOST = "lost"  # the peer closed or is silent; this side is shut down
    CLOSED = "closed"  # the application closed it
    ORPHANED = "orphaned"  # this is a forked child; the stream belongs to the parent


class Event(enum.Enum):
    """The result of one check of a link; the first one that applies counts."""

    __hash__ = object.__hash__

    FORKED = "forked"
    APPLICATION_CLOSED = "application-closed"
    PEER_CLOSED = "peer-closed"
    SILENT = "silent"
    HUNG = "hung"  # the application was inactive for the liveness timeout
    MOVING = "moving"  # a writer is active, or bytes are still in the send queue
    DUE = "due"
    FRESH = "fresh"


class Action(enum.Enum):
    """What a check does."""

    WAIT = "wait"
    SEND = "send"
    SHUT_WRITE = "shut-write"  # what the peer sent before it closed can still be read
    SHUT_BOTH = "shut-both"  # a blocked reader wakes up, the next call fails at once
    FORGET = "forget"
    DROP = "drop"  # close this copy of the descriptor, send nothing on it


TABLE: dict[tuple[State, Event], tuple[State, Action]] = {
    (State.ALIVE, Event.FRESH): (State.ALIVE, Action.WAIT),
    (State.ALIVE, Event.MOVING): (State.ALIVE, Action.WAIT),
    (State.ALIVE, Event.DUE): (State.ALIVE, Action.SEND),
    (State.ALIVE, Event.HUNG): (State.HUNG, Action.WAIT),
    (State.ALIVE, Event.SILENT): (State.LOST, Action.SHUT_BOTH),
    (State.ALIVE, Event.PEER_CLOSED): (State.LOST, Action.SHUT_WRITE),
    (State.ALIVE, Event.APPLICATION_CLOSED): (State.CLOSED, Action.FORGET),
    (State.ALIVE, Event.FORKED): (State.ORPHANED, Action.DROP),
    # Every check with another result than hung finds that the application was active.
    (State.HUNG, Event.FRESH): (State.ALIVE, Action.WAIT),
    (State.HUNG, Event.MOVING): (State.ALIVE, Action.WAIT),
    (State.HUNG, Event.DUE): (State.ALIVE, Action.SEND),
    (State.HUNG, Event.HUNG): (State.HUNG, Action.WAIT),
    (State.HUNG, Event.SILENT): (State.LOST, Action.SHUT_BOTH),
    (State.HUNG, Event.PEER_CLOSED): (State.LOST, Action.SHUT_WRITE),
    (State.HUNG, Event.APPLICATION_CLOSED): (State.CLOSED, Action.FORGET),
    (State.HUNG, Event.FORKED): (State.ORPHANED, Action.DROP),
    # A lost link sends no more heartbeats, whatever the kernel reports.
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

#: States in which a link is checked.
WATCHED = frozenset({State.ALIVE, State.HUNG})


class Sample(NamedTuple):
    """One sample of a link. Ages are in seconds.

    Attributes:
        sent_ago: since the last byte was sent to the peer.
        received_ago: since the last byte arrived, read by the client or not.
        acked_ago: since the peer's kernel last acknowledged anything; None if the platform does
            not report it.
        queued: bytes or segments that the peer has not acknowledged.
        in_flight: those of them that were sent; while the peer's window is closed,
            bytes queue up and none is in flight.
        unread: bytes that the client has not read yet, if they may have closed the window.
        unread_ago: since there were such bytes, as far as is known; 0 while there are.
        writing: a write of the client is running, or half a frame is buffered.
        peer_closed: the peer has sent FIN or RST.
        closed: the application closed the connection.
        forked: this process is not the one that opened the connection.
        marked_ago: since the application was last active.
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
    """Return the seconds without a byte sent after which a heartbeat is due; `timeout` is T."""
    return timeout / 2 - EARLY


def recheck_after(timeout: float) -> float:
    """Return the seconds until the next check while bytes are moving; `timeout` is T."""
    return min(RECHECK_SHARE * timeout, RECHECK_AT_MOST)


def silence_of(timeout: float, silence: float | None) -> float:
    """Return the seconds without a byte received after which the peer is dead.

    Parameters:
        timeout: T.
        silence: that time, if it does not follow from T as in AMQP 0-9-1.
    """
    return 2 * timeout if silence is None else silence


def silent(sample: Sample, timeout: float, silence: float | None = None) -> bool:
    """Return whether the peer is dead.

    Unread bytes are an exception, because this side's closed window may cause the silence. There is
    no exception for a peer whose *kernel* has not acknowledged sent bytes for as long.

    Parameters:
        sample: the sample.
        timeout: T, in seconds.
        silence: as for :func:`silence_of`.
    """
    limit = silence_of(timeout, silence)
    if sample.received_ago >= limit and sample.unread_ago >= limit:
        return True
    if math.isinf(limit):
        limit = 2 * timeout
    # In flight, not queued: a closed window is probed ever less often, up to once in two
    # minutes, and only those probes are acknowledged.
    return (
        sample.received_ago >= limit
        and bool(sample.in_flight)
        and sample.acked_ago is not None
        and sample.acked_ago >= limit
    )


def classify(
    sample: Sample, timeout: float, liveness: float = 0.0, silence: float | None = None
) -> Event:
    """Return the event that applies to `sample`, for a link whose T is `timeout` seconds.

    Parameters:
        sample: the sample.
        timeout: T, in seconds.
        liveness: seconds of inactivity after which the application is hung; 0 for never.
        silence: as for :func:`silence_of`.
    """
    if sample.forked:
        return Event.FORKED
    if sample.closed:
        return Event.APPLICATION_CLOSED
    if sample.peer_closed:
        return Event.PEER_CLOSED
    if silent(sample, timeout, silence):
        return Event.SILENT
    if liveness and sample.marked_ago >= liveness:
        return Event.HUNG
    if sample.writing or sample.queued:
        return Event.MOVING
    if sample.sent_ago >= due_after(timeout):
        return Event.DUE
    return Event.FRESH


def next_check(
    event: Event,
    sample: Sample,
    timeout: float,
    liveness: float = 0.0,
    silence: float | None = None,
) -> float | None:
    """Return the seconds until the next check of the link; None for never again."""
    pause = _next_check(event, sample, timeout, silence_of(timeout, silence))
    if pause is None or not liveness or event is Event.HUNG:
        return pause
    return min(pause, liveness - sample.marked_ago)


def _next_check(event: Event, sample: Sample, timeout: float, silence: float) -> float | None:
    until_dead = silence - sample.received_ago
    if until_dead <= 0:  # and is an exception, because of bytes that are or were unread
        until_dead = min(RECHECK_SHARE * timeout, silence - sample.unread_ago)
    if event is Event.MOVING:
        return recheck_after(timeout)
    if event is Event.HUNG:
        # The overdue heartbeat must still be in time when the application is active again.
        return min(RECHECK_SHARE * timeout, until_dead)
    if event is Event.DUE:
        return min(timeout / 2, until_dead)
    if event is Event.FRESH:
        return min(timeout / 2 - sample.sent_ago, until_dead)
    return None
