"""The invariant: every message is confirmed or reported, every link is alive, reconnected or
reported dead within its bound.

Pure: it reads what the applications reported, which faults happened, and what the broker holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.stress.chaos.faults import SLACK, Effect, Fault, Scope
from tests.stress.chaos.journal import Entry, Journal
from tests.stress.chaos.plan import OPEN_LIMIT

#: Opening is several steps, each with the library's own time limit.
_OPENING_STEPS = 6


@dataclass(frozen=True)
class Violation:
    """The invariant did not hold.

    Attributes:
        rule: ``lost``, ``late``, ``false-death``, ``stuck``, ``error`` or ``gone``.
    """

    rule: str
    name: str
    text: str


@dataclass
class Generation:
    """One connection, from its opening to its end."""

    number: int
    up: float
    port: int
    accepted: list[Entry] = field(default_factory=list)
    confirmed: list[Entry] = field(default_factory=list)
    died: float | None = None
    closing: float | None = None
    closed: float | None = None

    @property
    def end(self) -> float:
        """When it ended, whatever way; infinity while it lives."""
        ends = [at for at in (self.died, self.closed) if at is not None]
        return min(ends, default=float("inf"))


@dataclass(frozen=True)
class Position:
    """Where a connection is: what may befall it."""

    name: str
    zone: str
    process: str
    workload: str


@dataclass
class SessionResult:
    """What became of one session's messages and connections.

    Attributes:
        excused: messages accepted without confirms that did not arrive, on a connection
            whose death was reported within the bound.
        truly_silent: deaths without a fault that were none of hbshim's: the relay had
            heard nothing from the broker for 2 T either, so busy was the machine.
        detections: for each fault that a connection was to be given up for, how many
            seconds after the fault took effect that was known.
    """

    place: Position
    accepted: int = 0
    confirmed: int = 0
    refused: int = 0
    arrived: int = 0
    excused: int = 0
    truly_silent: int = 0
    generations: int = 0
    detections: list[tuple[str, float]] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)


def check_invariant(
    heartbeat: float,
    faults: Sequence[Fault],
    places: Sequence[Position],
    journals: Mapping[str, Journal],
    arrived: Mapping[str, set[int]],
    heartbeats: Mapping[tuple[str, int], Sequence[float]] | None = None,
) -> list[SessionResult]:
    """Check every session.

    Parameters:
        heartbeat: T in seconds.
        faults: what happened.
        places: every session there was.
        journals: by name of the process.
        arrived: by name of the session, the numbers of the messages in its queue.
        heartbeats: by zone and the client's port, when the relay heard the broker's heartbeats;
            None when that is not known.
    """
    session_results = []
    for place in places:
        journal = journals[place.process]
        entries = [entry for entry in journal.entries if entry.name == place.name]
        at_hand = [fault for fault in faults if _hits(fault, place)]
        numbers = arrived.get(place.name, set())
        trial = _Trial(heartbeat, at_hand, place, entries, numbers, heartbeats, journal.starved)
        session_results.append(trial.session_result())
    return session_results


def _hits(fault: Fault, place: Position) -> bool:
    return fault.kind.scope is Scope.BROKER or fault.target in (place.zone, place.process)


class _Trial:
    """One session's case."""

    def __init__(
        self,
        heartbeat: float,
        faults: list[Fault],
        place: Position,
        entries: list[Entry],
        arrived: set[int],
        heartbeats: Mapping[tuple[str, int], Sequence[float]] | None,
        starved: Sequence[tuple[float, float]],
    ) -> None:
        self._heartbeat = heartbeat
        self._faults = faults
        self._entries = entries
        self._arrived = arrived
        self._heartbeats = heartbeats
        self._starved_at = starved
        self._result = SessionResult(place)
        self._generations = list(_generations(entries))

    def session_result(self) -> SessionResult:
        result = self._result
        kinds = [entry.kind for entry in self._entries]
        result.accepted, result.confirmed = kinds.count("accepted"), kinds.count("confirmed")
        result.refused, result.arrived = kinds.count("refused"), len(self._arrived)
        result.generations = len(self._generations)
        self._check_messages()
        for generation in self._generations:
            self._check_death(generation)
            self._check_detection(generation)
        self._check_calls()
        if "over" not in kinds:
            self._object("gone", "never came back: its last message did not get through")
        return result

    def _object(self, rule: str, text: str) -> None:
        self._result.violations.append(Violation(rule, self._result.place.name, text))

    def _check_messages(self) -> None:
        for entry in self._entries:
            if entry.kind == "confirmed" and entry.number not in self._arrived:
                self._object("lost", f"message {entry.number} was confirmed and did not arrive")
        for generation in self._generations:
            for entry in generation.accepted:
                if entry.number in self._arrived:
                    continue
                if self._reported(generation, entry):
                    self._result.excused += 1
                else:
                    self._object(
                        "lost",
                        f"message {entry.number} was accepted and did not arrive; "
                        + _when(generation, entry.at),
                    )

    def _reported(self, generation: Generation, entry: Entry) -> bool:
        """Whether the connection's death was reported soon enough after it took the message."""
        if generation.died is None:
            return False
        return any(
            generation.died - entry.at
            <= fault.kind.bound(self._heartbeat)
            + (fault.effective - fault.began)
            + self._held(entry.at, generation.died, stops=True)
            + self._starved(entry.at, generation.died)
            for fault in self._faults
            if fault.kind.kills and entry.at >= fault.began - SLACK
        )

    def _check_death(self, generation: Generation) -> None:
        died = generation.died
        if died is None:
            return
        if generation.closing is not None and generation.closing <= died:
            # The broker has answered the close: it sends no heartbeats while the answer waits for
            # an application that computes.
            return
        for fault in self._faults:
            # The broker gives the client up, too, and its word may come with the end of a fault.
            last = self._running(fault.healed, fault.kind.bound(self._heartbeat))
            if fault.kind.kills and fault.began <= died <= last:
                return
        if self._truly_silent(generation, died):
            self._result.truly_silent += 1
            return
        self._object("false-death", f"connection {generation.number} died and nothing had happened")

    def _truly_silent(self, generation: Generation, died: float) -> bool:
        if self._heartbeats is None or not generation.port:
            return False
        heartbeats = self._heartbeats.get((self._result.place.zone, generation.port), ())
        # What the relay heard reaches the client a moment later, or too late: when a machine
        # that stood still goes on, all checks and all heartbeats are due at once.
        latest = max((at for at in heartbeats if at <= died - _RELAYED), default=generation.up)
        return died - max(latest, generation.up) >= 2 * self._heartbeat - _RELAYED

    def _check_detection(self, generation: Generation) -> None:
        for fault in self._faults:
            if not fault.kind.kills or not generation.up < fault.began < generation.end:
                continue
            if self._outlived(generation, fault):
                continue
            # A stopped process knows nothing; what matters is what it does when it goes on.
            since = fault.healed if fault.kind.effect is Effect.STOPPED else fault.effective
            deadline = self._running(since, fault.kind.bound(self._heartbeat))
            allowed = deadline - since + self._starved(since, deadline)
            if generation.closed is not None and generation.end == generation.closed:
                # The goodbye got through, or the library took no notice; within the bound
                # either way, or `_check_calls` reports it.
                continue
            if generation.end - since > allowed:
                self._object(
                    "late",
                    f"{fault.kind.name}: {_when(generation, since)}, {allowed:.1f} s allowed",
                )
            elif generation.died is not None:
                stood_still = self._held(since, generation.died, stops=True)
                # What takes effect slowly may be known before it is complete.
                seconds = max(0.0, generation.died - since - stood_still)
                self._result.detections.append((fault.kind.name, seconds))

    def _outlived(self, generation: Generation, fault: Fault) -> bool:
        """Whether this fault met another, so that neither side could know, and all is well again.

        A process that stood still in a silence did not live through 2 T of it; and a broker that
        was paused meanwhile did not miss the process.
        """
        ran = fault.ended - fault.effective - self._held(fault.effective, fault.ended, stops=True)
        if fault.kind.effect is not Effect.STOPPED and ran >= 2 * self._heartbeat:
            return False
        if any(entry.began > fault.healed for entry in generation.confirmed):
            return True
        # A broker that confirms needs no heartbeats; else they are the sign.
        heartbeats = (self._heartbeats or {}).get((self._result.place.zone, generation.port), ())
        return any(fault.healed + SLACK < at < generation.end for at in heartbeats)

    def _running(self, since: float, seconds: float) -> float:
        """When the process has run for so many seconds since then."""
        end = since + seconds
        for fault in sorted(self._faults, key=lambda fault: fault.began):
            if fault.kind.name in _STANDSTILLS and fault.healed > since and fault.began < end:
                end += fault.healed - max(fault.began, since)
        return end

    def _starved(self, begin: float, end: float) -> float:
        """The longest time in this span that the machine kept a thread from running; 0 for none.

        A process that was stopped did not run either, and is counted elsewhere.
        """
        stops = [fault for fault in self._faults if fault.kind.name in _STANDSTILLS]
        return max(
            (
                seconds
                for at, seconds in self._starved_at
                if begin <= at <= end + seconds
                and not any(stop.began <= at and at - seconds <= stop.healed for stop in stops)
            ),
            default=0.0,
        )

    def _check_calls(self) -> None:
        longest = 3 * self._heartbeat + SLACK
        for entry in self._entries:
            if entry.kind == "down" and not entry.recoverable:
                self._object("error", f"an error that no code reconnects on: {entry.error}")
            if not entry.began:
                continue
            limit = longest
            if entry.kind in ("up", "unreachable"):
                limit += OPEN_LIMIT * _OPENING_STEPS
            taken = entry.at - entry.began - self._held(entry.began, entry.at, stops=False)
            if taken > limit:
                self._object(
                    "stuck", f"{entry.kind} took {taken:.1f} s, {limit:.1f} s are the most"
                )

    def _held(self, begin: float, end: float, *, stops: bool) -> float:
        """Seconds of this span in which the process stood still, or, in all, calls may wait."""
        return sum(
            max(0.0, min(end, fault.healed) - max(begin, fault.began))
            for fault in self._faults
            if (fault.kind.name in _STANDSTILLS if stops else fault.kind.holds_calls)
        )


#: Seconds that a relay on a busy machine may need to pass a heartbeat on.
_RELAYED = 0.25
_STANDSTILLS = frozenset({"stopped", "nap"})


def _when(generation: Generation, since: float) -> str:
    if generation.died is None:
        return f"connection {generation.number} was never reported dead"
    return f"connection {generation.number} was reported dead {generation.died - since:.1f} s later"


def _generations(entries: Iterable[Entry]) -> Iterator[Generation]:
    current: Generation | None = None
    for entry in entries:
        if entry.kind == "up":
            if current is not None:
                yield current
            current = Generation(entry.generation, entry.at, entry.port)
        elif current is None or entry.generation != current.number:
            continue
        elif entry.kind == "accepted":
            current.accepted.append(entry)
        elif entry.kind == "confirmed":
            current.confirmed.append(entry)
        elif entry.kind in ("lost", "down", "refused"):
            current.died = entry.at if current.died is None else min(current.died, entry.at)
        elif entry.kind == "closed":
            current.closing, current.closed = entry.began, entry.at
    if current is not None:
        yield current
