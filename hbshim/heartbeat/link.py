"""One connection that is kept alive: its wire, guard and state.

Longer than others: all changes of a link's state are in one place.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from hbshim.heartbeat.guard import Guard, Permit
from hbshim.heartbeat.liveness import last_mark
from hbshim.heartbeat.state import (
    TABLE,
    WATCHED,
    Action,
    Event,
    Sample,
    State,
    classify,
    due_after,
    next_check,
    silence_of,
)
from hbshim.heartbeat.wire import DescriptorReusedError, HeartbeatTornError, Wire
from hbshim.metrics import Metrics

#: Checks between two drains of a healthy link. The broker sends a heartbeat every T/2, as often
#: as the link is checked, so a drain takes about this many frames of 8 bytes.
CHECKS_BETWEEN_DRAINS = 16

#: Seconds without traffic after which not all ages of ``TCP_INFO`` can be 0.
AGES_GROW_WITHIN = 1.0

#: A heartbeat that is delayed by this share of T is recorded as an event.
NOTABLE_DELAY = 1 / 8

_KEPT_OUT = "another thread is inside the connection's TLS session, or the kernel takes no bytes"
_HELD_UP = (
    "the client has sent a part of a frame and does not send the rest: its event loop is blocked, "
    "or the thread that writes does not run"
)


def _never() -> bool:
    return False


def _nothing() -> None:
    return None


class Link:
    """Keeps one AMQP connection alive if :meth:`check` is called on time.

    Parameters:
        wire: the connection's socket.
        timeout: T, in seconds, above 0: in AMQP 0-9-1 the negotiated heartbeat timeout, in AMQP 1.0
            the idle-time-out that the peer advertised.
        name: for reports; without credentials.
        metrics: receives counters and events.
        silence: seconds without a byte received after which the peer is dead; infinity if it
            is not known to send anything while it is idle. 2 T if not set, as in AMQP 0-9-1.
        half_written: whether the client has buffered the rest of a frame whose beginning
            was sent.
        half_read: whether the client has buffered the beginning of a frame.
        closing: whether the client closes the connection in good order; then the peer's end of the
            stream is the answer to that, and no loss.
        on_orphaned: called in a forked child, after its copy of the descriptor is dropped; the
            adapter marks its library's connection closed there.
        forked_error: makes the client library's own recoverable error, for a
            write on a connection that a forked child inherited.

    Attributes:
        liveness_timeout: seconds without activity of the application after which no heartbeats
            are sent; 0 (the default) for never.
        on_use: called by a client after an idle time, in the process of the link.
    """

    # With thousands of links each check starts with a cold cache.
    __slots__ = (
        "__weakref__",
        "_checks",
        "_closing",
        "_delayed_since",
        "_forked_error",
        "_half_read",
        "_half_written",
        "_last_drain",
        "_last_heartbeat",
        "_last_unread",
        "_metrics",
        "_on_orphaned",
        "_overlaps_reported",
        "_pid",
        "_silence",
        "_torn_reported",
        "guard",
        "heartbeats_sent",
        "liveness_timeout",
        "name",
        "on_closed",
        "on_use",
        "state",
        "timeout",
        "wire",
    )

    def __init__(
        self,
        wire: Wire,
        timeout: float,
        name: str,
        metrics: Metrics,
        *,
        silence: float | None = None,
        half_written: Callable[[], bool] = _never,
        half_read: Callable[[], bool] = _never,
        closing: Callable[[], bool] = _never,
        on_orphaned: Callable[[], None] = _nothing,
        forked_error: Callable[[], Exception] = ConnectionError,
    ) -> None:
        self.wire = wire
        self.timeout = timeout
        self._silence = silence
        self.name = name
        self.guard = Guard()
        self.state = State.ALIVE
        self.liveness_timeout = 0.0
        self.heartbeats_sent = 0
        self.on_closed: Callable[[Link], None] | None = None
        self.on_use = _nothing
        self._metrics = metrics
        self._half_written = half_written
        self._half_read = half_read
        self._closing = closing
        self._on_orphaned = on_orphaned
        self._forked_error = forked_error
        self._pid = os.getpid()
        # Spread out: links that were opened together should not drain together.
        self._checks = id(self) // 64 % CHECKS_BETWEEN_DRAINS
        self._overlaps_reported = 0
        self._torn_reported = False
        # Since when a due heartbeat could not be sent: None if none is due, infinity once it has
        # been reported.
        self._delayed_since: float | None = None
        self._last_unread = time.monotonic()
        # Only for platforms without TCP_INFO, where the guard counts.
        self._last_heartbeat = self._last_drain = self._last_unread
        if wire.tcp_info_unusable:
            self._report_counting()

    @property
    def silence(self) -> float:
        """Seconds without a byte received after which the peer is dead."""
        return silence_of(self.timeout, self._silence)

    # -- the engine's side ---------------------------------------------------

    def check(self, now: float) -> float | None:
        """Check the link, act, and return the time of the next check; None for never again.

        Non-blocking; any thread may call it. `now` is ``time.monotonic()``.
        """
        if self._send_quickly(now):
            return now + self.timeout / 2
        permit = self.guard.writers.try_acquire()
        try:
            event, sample = self._observe(now, writing=permit is None)
            if not self._step(event, sample, permit):
                event = Event.MOVING  # a client is inside the stream lock or its TLS session
        finally:
            if permit is not None:
                self.guard.writers.release()
        if self.guard.torn and not self.guard.writers.inside:
            self.tear()
        self._report_misuse()
        pause = next_check(event, sample, self.timeout, self.liveness_timeout, self._silence)
        if self.state not in WATCHED or pause is None:
            return None
        return now + pause

    def _send_quickly(self, now: float) -> bool:
        """Send a due heartbeat on a healthy link, which is the case in nearly every check.

        It adds no rule: it sends only when :func:`classify` would return DUE, and leaves every
        other case, and a regular check with its drain, to the table.
        """
        guard, checks = self.guard, self._checks + 1
        last_write = guard.last_write
        if (
            checks % CHECKS_BETWEEN_DRAINS == 0
            or self.state is not State.ALIVE
            or guard.writers.inside
            or guard.torn
            or guard.closed
            or self.liveness_timeout
            or guard.writers.overlaps > self._overlaps_reported
            or not self.wire.has_tcp_info
            or os.getpid() != self._pid
            or self._half_written()
        ):
            return False
        quiet = self.timeout if self._silence is None else self._silence / 2
        try:
            if not self.wire.send_if_idle(due_after(self.timeout), quiet, guard, last_write):
                return False
        except OSError:
            return False  # the table determines the cause
        except HeartbeatTornError:
            self.tear()
            return False
        self._checks = checks
        self._note_heartbeat(now)
        return True

    @property
    def inherited(self) -> bool:
        """Whether this process is a forked child of the one that opened the connection."""
        return os.getpid() != self._pid

    def orphan(self) -> None:
        """In a forked child: drop the child's copy of the descriptor.

        Every call of a client on an inherited link does this first, because a thread that exists
        only in the parent may hold a lock. Idempotent.
        """
        if self.state is State.ORPHANED:
            return
        self.state = State.ORPHANED
        self.guard.renew_locks()
        self.guard.closed = True
        # The next write must take the slow path, even without an idle time.
        self.guard.last_write = float("-inf")
        self.wire.drop()
        self._on_orphaned()

    def _observe(self, now: float, *, writing: bool) -> tuple[Event, Sample]:
        sample = self._sample(now, writing)
        self._checks += 1
        # Draining keeps an idle client's window open, and makes sure that unread bytes are
        # something else than heartbeats before the peer is reported dead.
        if (
            self._checks % CHECKS_BETWEEN_DRAINS == 0 or sample.received_ago > self.silence / 2
        ) and self._drain(now):
            sample = self._sample(now, writing)
        if sample.unread:
            self._last_unread = now
        event = classify(sample, self.timeout, self.liveness_timeout, self._silence)
        if event is Event.PEER_CLOSED and self._closing():
            event = Event.APPLICATION_CLOSED
        return event, sample

    def _sample(self, now: float, writing: bool) -> Sample:
        writing = writing or self.guard.torn or self._half_written()
        forked = os.getpid() != self._pid
        if forked or self.guard.closed or self.wire.closed:
            return self._closed_sample(forked)
        if self.wire.reused:
            self._report_reused()
            return self._closed_sample(forked)
        try:
            if not self.wire.has_tcp_info:
                return self._counted_sample(now, writing)
            view = self.wire.kernel_view()
            if not (view.sent_ago or view.received_ago or view.acked_ago) and self._idle(now):
                self.wire.distrust_tcp_info()
                self._report_counting()
                return self._counted_sample(now, writing)
            # One more system call, so only if the answer matters.
            waited = view.received_ago > self.silence / 2
            unread = self.wire.unread_in_the_way() if waited else 0
        except OSError:
            return self._closed_sample(forked)
        return Sample(
            view.sent_ago,
            view.received_ago,
            view.acked_ago,
            view.queued,
            view.in_flight,
            unread,
            self._unread_ago(now, unread, view.received_ago),
            writing,
            view.peer_closed,
            marked_ago=self._marked_ago(now),
        )

    def _counted_sample(self, now: float, writing: bool) -> Sample:
        last_sent = max(self.guard.last_write, self._last_heartbeat)
        last_received = max(self.guard.last_read, self._last_drain)
        unread, queued = self.wire.unread(), self.wire.queued()
        return Sample(
            now - last_sent,
            now - last_received,
            None,
            queued,
            queued,
            unread,
            self._unread_ago(now, unread, float("inf")),
            writing,
            peer_closed=not self.guard.readers.occupied and self.wire.peer_closed(),
            marked_ago=self._marked_ago(now),
        )

    def _idle(self, now: float) -> bool:
        latest = max(self.guard.last_write, self.guard.last_read, self._last_heartbeat)
        return now - latest > AGES_GROW_WITHIN

    def _closed_sample(self, forked: bool) -> Sample:
        return Sample(0, 0, None, 0, 0, 0, 0, False, False, closed=True, forked=forked)

    def _marked_ago(self, now: float) -> float:
        if not self.liveness_timeout:
            return 0.0
        return now - max(self.guard.last_write, self.guard.last_read, last_mark())

    def _unread_ago(self, now: float, unread: int, received_ago: float) -> float:
        if unread:
            return 0
        seen = self._last_unread
        # Bytes that a check found unread were unread until the client read them, and may have
        # closed the window until then. A heartbeat that the client happened to read has not, and
        # must not extend a silence that began before.
        if seen > now - received_ago:
            seen = max(seen, self.guard.last_read)
        return now - seen

    def _drain(self, now: float) -> bool:
        readers = self.guard.readers
        if self.guard.closed or self.guard.misread or not (permit := readers.try_acquire()):
            return False
        try:
            taken = 0 if self._half_read() else self.wire.take_heartbeats(permit)
        except OSError:
            return False
        finally:
            readers.release()
        if taken:
            self._last_drain = now
            self._metrics.count("heartbeats_drained", taken)
        return bool(taken)

    def _step(self, event: Event, sample: Sample, permit: Permit | None = None) -> bool:
        """Do `action`; return False if a heartbeat was due and could not be sent now."""
        before = self.state
        after, action = TABLE[before, event]
        # Without a lock: no other thread runs between this comparison and the assignment.
        if self.state is not before:
            return True
        self.state = after
        if after is not before:
            self._report_liveness(before, sample)
        if action is Action.SEND:
            return permit is not None and self._send_heartbeat(permit)
        if event is Event.MOVING and self._is_held_up(sample):
            self._note_delay(time.monotonic(), _HELD_UP)
        else:
            self._delayed_since = None
        if action is Action.SHUT_BOTH:
            self.wire.shut_both()
            self._metrics.record(
                "link-silent",
                self.name,
                f"nothing received for {sample.received_ago:.1f} s, {self._limits()}; "
                "shut down so that the next call fails and the application reconnects",
            )
        elif action is Action.SHUT_WRITE:
            reason = self.wire.why_closed()
            self.wire.shut_write()
            self._metrics.record("peer-closed", self.name, reason)
        elif action is Action.DROP:
            self.orphan()
        if after not in WATCHED and after is not before:
            self._report_misuse()  # there may be no later opportunity
        return True

    def _is_held_up(self, sample: Sample) -> bool:
        """Return whether a heartbeat is due in the middle of a frame that nothing sends."""
        return (
            sample.writing
            and not sample.queued
            and not self.guard.torn
            and sample.sent_ago >= due_after(self.timeout)
        )

    def _limits(self) -> str:
        limits = f"T = {self.timeout:g} s"
        return limits if self._silence is None else f"{limits}, silence = {self._silence:g} s"

    def _send_heartbeat(self, permit: Permit) -> bool:
        try:
            sent = self.wire.send_heartbeat(permit)
        except DescriptorReusedError:
            self._report_reused()
            return False
        except OSError:
            return False  # reset meanwhile; the next check finds it closed
        except HeartbeatTornError:
            self.tear()
            return True
        if sent:
            self._note_heartbeat(time.monotonic())
        else:
            self._note_delay(time.monotonic(), _KEPT_OUT)
        return sent

    def _note_heartbeat(self, now: float) -> None:
        self.heartbeats_sent += 1
        self._last_heartbeat = now
        self._metrics.count("heartbeats_sent")
        self._delayed_since = None

    def _note_delay(self, now: float, reason: str) -> None:
        if self._delayed_since is None:
            self._delayed_since = now
        delay = now - self._delayed_since
        if delay > self.timeout * NOTABLE_DELAY:
            self._delayed_since = float("inf")
            self._metrics.record(
                "heartbeat-delayed",
                self.name,
                f"a heartbeat has been due for {delay:.1f} s, T = {self.timeout:g} s; {reason}",
            )

    def _report_reused(self) -> None:
        # The program continues with the new owner of the descriptor's number.
        self.guard.closed = True
        self.state = State.CLOSED
        self._metrics.record(
            "descriptor-reused",
            self.name,
            "another part of the program closed this connection's descriptor; no heartbeat is "
            "sent any more, so that none goes to another connection with the same number",
        )

    def _report_counting(self) -> None:
        self._metrics.record_once(
            "tcp-info-unusable",
            "",
            "this kernel does not fill in TCP_INFO; hbshim counts the bytes that the client "
            "sends and receives instead, as on platforms without it",
        )

    def _report_liveness(self, before: State, sample: Sample) -> None:
        if self.state is State.HUNG:
            self._metrics.record(
                "application-hung",
                self.name,
                f"the application was inactive for {sample.marked_ago:.1f} s, its liveness_timeout "
                f"is {self.liveness_timeout:g} s; no heartbeats are sent until it is active again",
            )
        elif before is State.HUNG and self.state is State.ALIVE:
            self._metrics.record(
                "application-back",
                self.name,
                "the application is active again; heartbeats continue",
            )

    def _report_misuse(self) -> None:
        overlaps = self.guard.writers.overlaps
        if overlaps > self._overlaps_reported:
            self._overlaps_reported = overlaps
            self._metrics.record(
                "concurrent-writers",
                self.name,
                f"two writers at once on one connection, {overlaps} times so far; "
                "frames may interleave: give each thread a connection of its own",
            )
        if self.guard.torn and not self._torn_reported:
            self._metrics.record(
                "write-broken-off",
                self.name,
                "a write was interrupted, so a part of a frame may be on the wire; the "
                "connection is shut down, and the next call on it fails: open a new one",
            )
            # After the state: an exception between the two must not lose the event.
            self._torn_reported = True

    # -- the client's side ---------------------------------------------------

    def tear(self) -> None:
        """End a stream on which part of a frame may have been sent: nothing may follow it.

        The socket is shut down at once, so that the client's next call fails with the client's own
        error. Idempotent; callable from any thread.
        """
        self.guard.torn = True
        if self.inherited:
            # A shutdown would end the parent's connection.
            self.orphan()
            return
        if self.state not in WATCHED or self.wire.closed:
            # It had ended before, and was reported: that is why the write failed.
            self._torn_reported = True
        elif self._peer_is_gone():
            self._torn_reported = True
            self._step(Event.PEER_CLOSED, self._closed_sample(False))
        self.wire.shut_both()
        # Before the state, by which a second call knows that this was done.
        self._report_misuse()
        if self.state in WATCHED:
            self.state = State.LOST

    def _peer_is_gone(self) -> bool:
        try:
            return self.wire.has_tcp_info and self.wire.kernel_view().peer_closed
        except OSError:
            return True

    def check_peer(self) -> None:
        """Check the peer, as before a write; the state shows the result.

        If the peer has closed or is silent, the socket is shut down, so that the client's write
        fails with its own error and the message is not lost.

        Raises:
            Exception: the library's recoverable error, in a forked child.
        """
        if self.inherited:
            self.orphan()
        if self.state is State.ORPHANED:
            raise self._forked_error()
        self.on_use()
        if self.guard.torn:
            self.tear()
        elif self.state in WATCHED:
            event, sample = self._observe(time.monotonic(), writing=True)
            if event in (Event.PEER_CLOSED, Event.SILENT):
                self._step(event, sample)
        elif self.state is State.LOST:
            # The thread that set the state may not have shut the socket down yet.
            self.wire.shut_write()

    def before_idle_write(self) -> None:
        """The pre-write check: :meth:`check_peer`, before bytes are passed to the kernel.

        Raises:
            Exception: the library's recoverable error, in a forked child.
        """
        self.check_peer()
        if self.state is State.LOST and not self.guard.torn:
            self._metrics.count("stale_writes_prevented")

    def close(self) -> None:
        """The application closes the connection: no check and no heartbeat from now on.

        In a forked child only the child's copy is dropped. The caller then must not let its library
        close the stream either.
        """
        if self.inherited:
            self.orphan()
            return
        self.guard.close()
        if self.state in WATCHED:
            self.state = State.CLOSED
        self._report_misuse()
        if self.on_closed is not None:
            self.on_closed(self)

    def traffic_age(self, now: float) -> tuple[float, float]:
        """Seconds since the application last wrote and last read; heartbeats do not count."""
        return now - self.guard.last_write, now - self.guard.last_read
