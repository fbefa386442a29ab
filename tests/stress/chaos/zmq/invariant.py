"""The invariant: every call ends once and in time; nothing runs twice; all else arrived or was
counted.

Pure: it reads the journal, and which faults happened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.stress.chaos.zmq.faults import Fault
from tests.stress.chaos.zmq.journal import Journal, Message, Run

#: Seconds beyond its timeout that a message may take to end.
ALLOWANCE = 1.0

#: Seconds in which the loss of a server or a proxy may be noticed by what was handed to it.
LOSS_KNOWN = 2.0

#: Seconds before a fault in which a message may have been sent that it lost, on its way or in a
#: queue; and units of T after it in which connections are made again.
_BEFORE, _AFTER = 6.0, 3.0

#: Counters of what was lost, or left out, where nothing acknowledges a message.
COUNTED = (
    "zmq_casts_dropped",
    "zmq_requests_expired",
    "zmq_publications_dropped",
    "zmq_publications_missed",
    "zmq_subscribers_behind",
    "zmq_listeners_left_out",
    "zmq_notifications_without_listener",
    "zmq_hosts_left_out",
)


@dataclass(frozen=True)
class Violation:
    """The invariant did not hold.

    Attributes:
        rule: ``unended``, ``twice-ended``, ``late``, ``ran-twice``, ``wrong``, ``error``, ``lost``
            or ``stayed``.
    """

    rule: str
    id: str
    text: str


@dataclass
class Result:
    """What became of a run's messages.

    Attributes:
        totals: messages by kind and how they ended.
        missing: that nothing acknowledged, and no server began, with a fault or counter for each.
        copies: runs beyond the first of what is acknowledged, as documented.
    """

    violations: list[Violation] = field(default_factory=list)
    totals: Counter[tuple[str, str]] = field(default_factory=Counter)
    missing: int = 0
    counted: int = 0
    copies: int = 0
    slowest: float = 0.0


def check_invariant(
    journal: Journal,
    faults: Sequence[Fault],
    heartbeat: float,
    hosts: Iterable[str],
    counted: float = 0.0,
) -> Result:
    """Check a run that has come to rest.

    Parameters:
        heartbeat: T in seconds.
        hosts: whose servers get each fanout.
        counted: what the proxies have counted of what they lost.
    """
    return _Trial(journal, faults, heartbeat, set(hosts), counted).result()


class _Trial:
    """One run's case."""

    def __init__(
        self,
        journal: Journal,
        faults: Sequence[Fault],
        heartbeat: float,
        hosts: set[str],
        counted: float,
    ) -> None:
        self._journal = journal
        self._faults = faults
        self._heartbeat = heartbeat
        self._hosts = hosts
        self._result = Result()
        counters = journal.counters.values()
        self._counted = counted + sum(each.get(name, 0) for each in counters for name in COUNTED)
        self._runs: dict[str, list[Run]] = {}
        for run in journal.runs:
            self._runs.setdefault(run.id, []).append(run)

    def result(self) -> Result:
        unexplained: list[Message] = []
        for message in self._journal.messages.values():
            self._result.totals[message.what, message.error or "well"] += 1
            self._check_end(message)
            runs = self._runs.get(message.id, [])
            self._check_runs(message, runs)
            if not message.error and self._is_missing(message, runs):
                self._check_missing(message, unexplained)
        self._result.counted = int(self._counted)
        if len(unexplained) > self._counted:
            for message in unexplained:
                self._object("lost", message, f"{self._counted:g} were counted")
        return self._result

    def _object(self, rule: str, message: Message, text: str) -> None:
        shown = f"{message.what} of {message.client} at {message.began:.3f}: {text}"
        self._result.violations.append(Violation(rule, message.id, shown))

    def _check_end(self, message: Message) -> None:
        if message.ends != 1:
            rule = "twice-ended" if message.ends else "unended"
            self._object(rule, message, f"it has ended {message.ends} times")
            return
        taken = message.ended - message.began
        limit = message.timeout + ALLOWANCE + self._held(message)
        self._result.slowest = max(self._result.slowest, taken - limit + ALLOWANCE)
        if taken > limit:
            self._object("late", message, f"{taken:.1f} s, {limit:.1f} s are allowed")
        if message.error.startswith("foreign"):
            self._object("error", message, f"{message.error}: {message.text}")
        if message.what == "call" and not message.error and message.value not in self._hosts:
            self._object("wrong", message, f"it returned {message.value!r}")

    def _check_runs(self, message: Message, runs: list[Run]) -> None:
        if message.what in ("call", "cast", "notification"):
            if len(runs) > 1:
                self._object("ran-twice", message, f"by {[run.server for run in runs]}")
            if message.what == "call" and not message.error and not runs and message.ends:
                self._object("wrong", message, "it was answered, and not run")
            return
        # A fanout once for each server, and a copy never by a process that has begun it before.
        by_server = Counter(run.server for run in runs)
        if twice := [server for server, count in by_server.items() if count > 1]:
            self._object("ran-twice", message, f"by {twice}")
        if message.what == "fanout":
            return
        self._result.copies += max(0, len(runs) - 1)
        if message.what == "acked cast" and sum(not run.again for run in runs) > 1:
            self._object("ran-twice", message, "by two servers, and not marked as a copy")
        if not message.error and not runs:
            self._object("lost", message, "it was acknowledged, and not begun")

    def _is_missing(self, message: Message, runs: list[Run]) -> bool:
        if message.what == "fanout":
            lives = self._journal.lives
            there = {
                name
                for name, (began, ended) in lives.items()
                if began < message.began and message.ended < ended
            }
            return bool(there - {run.server for run in runs})
        return message.what in ("cast", "notification") and not runs

    def _check_missing(self, message: Message, unexplained: list[Message]) -> None:
        self._result.missing += 1
        if "-last-" in message.id:
            self._object("lost", message, "all was well when it was sent")
        elif not any(self._may_have_lost(fault, message) for fault in self._faults):
            unexplained.append(message)

    def _may_have_lost(self, fault: Fault, message: Message) -> bool:
        until = fault.healed + _AFTER * self._heartbeat
        near = fault.began - _BEFORE < message.began < until
        # A client loses what is its own alone.
        return fault.kind.may_lose and near and fault.target in (message.client, *self._hosts, "")

    def _held(self, message: Message) -> float:
        """Seconds in which its process, or this machine, did not run."""
        stood = sum(
            max(0.0, min(message.ended, fault.healed) - max(message.began, fault.began))
            for fault in self._faults
            if fault.kind.stops and fault.target == message.client
        )
        starved = sum(
            seconds
            for process, at, seconds in self._journal.starved
            if process == message.client and message.began <= at <= message.ended + seconds
        )
        return stood + starved
