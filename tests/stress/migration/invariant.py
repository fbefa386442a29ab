"""The invariant of a migration: every message counts once. Pure: it reads journals.

A fanout counts once for each listener, which is one start of a server. A listener hears the fanouts
that are sent while it listens. So of the fanouts of one thread, which are numbered, it must have
heard all from the first to the last one that it heard; from number 1 on if it listened before that
was sent; and to the last one if it listened to the end, or has heard that client's next start.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

KINDS = ("call", "cast", "fanout", "notification")


@dataclass
class Result:
    """What became of all messages.

    Attributes:
        sent, done, ran: counts, by kind.
        failed: messages that their sender reported as failed.
        lost: messages that were sent without an error, and that no server ran.
        twice: calls and casts that ran more than once, and fanouts that a listener heard again.
        missed: fanouts that a listener should have heard, and has not.
        again: notifications that were handled more than once, which is allowed.
        unknown: messages that ran and that no client has sent.
        unfinished: messages whose sender noted neither end.
    """

    sent: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    ran: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether no message was lost, executed twice, refused or forgotten."""
        return not (
            *self.failed,
            *self.lost,
            *self.twice,
            *self.missed,
            *self.unknown,
            *self.unfinished,
        )


def check_invariant(lines: Iterable[str]) -> Result:
    """Check the lines of all journals, in any order."""
    result = Result()
    sent: set[tuple[str, str]] = set()
    done: set[tuple[str, str]] = set()
    ended: set[tuple[str, str]] = set()
    ran: Counter[tuple[str, str]] = Counter()
    fanouts = _Fanouts()
    for line in lines:
        word, kind, number, *rest = line.split(" ", 3)
        key = kind, number.strip()
        if word == "up":
            fanouts.up[number] = int(rest[0])
        elif word == "sent":
            sent.add(key)
            if kind == "fanout":
                fanouts.sent(number, int(rest[0]))
        elif word == "done":
            done.add(key)
            ended.add(key)
        elif word == "failed":
            ended.add(key)
            result.failed.append(f"{kind} {number}: {' '.join(rest).strip()}")
        elif word == "ran":
            ran[key] += 1
            if kind == "fanout":
                fanouts.heard[rest[0].strip()][number] += 1
    result.sent, result.done = (Counter(kind for kind, _ in keys) for keys in (sent, done))
    result.ran = Counter(kind for kind, _ in ran)
    result.lost = _named(key for key in done if not ran[key])
    result.twice = _named(key for key, count in ran.items() if count > 1 and _once(key))
    result.again = _named(
        key for key, count in ran.items() if count > 1 and key[0] == "notification"
    )
    result.twice += fanouts.twice()
    result.missed = fanouts.missed()
    result.unknown = _named(key for key in ran if ran[key] and key not in sent)
    result.unfinished = _named(sent - ended)
    return result


def _once(key: tuple[str, str]) -> bool:
    return key[0] in ("call", "cast")


class _Fanouts:
    """Which listener should have heard which fanout, and has.

    Attributes:
        up: when each listener, ``NAME.START``, has started.
        heard: by listener, how often it ran each fanout, ``CLIENT.START.THREAD.COUNT``.
    """

    def __init__(self) -> None:
        self.up: dict[str, int] = {}
        self.heard: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._first: dict[tuple[str, int, str], int] = {}
        self._last: Counter[tuple[str, int, str]] = Counter()

    def sent(self, number: str, when: int) -> None:
        thread, count = _split(number)
        if count == 1:
            self._first[thread] = when
        self._last[thread] = max(self._last[thread], count)

    def twice(self) -> list[str]:
        return sorted(
            f"fanout {number} at {listener}"
            for listener, heard in self.heard.items()
            for number, count in heard.items()
            if count > 1
        )

    def missed(self) -> list[str]:
        return [line for listener in sorted(self.up) for line in self._missed(listener)]

    def _missed(self, listener: str) -> Iterator[str]:
        name, _, start = listener.rpartition(".")
        ended = f"{name}.{int(start) + 1}" in self.up
        counts: defaultdict[tuple[str, int, str], set[int]] = defaultdict(set)
        for number in self.heard[listener]:
            thread, count = _split(number)
            counts[thread].add(count)
        latest: dict[str, int] = {}
        for client, begun, _ in counts:
            latest[client] = max(begun, latest.get(client, 0))
        for thread, last in self._last.items():
            heard = counts.get(thread, set())
            from_first = self.up[listener] < self._first.get(thread, 0)
            to_last = not ended or latest.get(thread[0], 0) > thread[1]
            if not heard and not (from_first and to_last):
                continue
            begin = 1 if from_first else min(heard, default=last + 1)
            end = last if to_last else max(heard)
            for count in range(begin, end + 1):
                if count not in heard:
                    yield f"fanout {'.'.join(map(str, thread))}.{count} at {listener}"


def _split(number: str) -> tuple[tuple[str, int, str], int]:
    client, start, thread, count = number.strip().rsplit(".", 3)
    return (client, int(start), thread), int(count)


def _named(keys: Iterable[tuple[str, str]]) -> list[str]:
    return sorted(f"{kind} {number}" for kind, number in keys)
