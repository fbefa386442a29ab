"""The invariant of a migration: every message counts once. Pure: it reads journals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

KINDS = ("call", "cast", "notification")


@dataclass
class Result:
    """What became of all messages.

    Attributes:
        sent, done, ran: counts, by kind.
        failed: messages that their sender reported as failed.
        lost: messages that were sent without an error, and that no server ran.
        twice: calls and casts that ran more than once.
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
    again: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether no message was lost, executed twice, refused or forgotten."""
        return not (self.failed or self.lost or self.twice or self.unknown or self.unfinished)


def check_invariant(lines: Iterable[str]) -> Result:
    """Check the lines of all journals, in any order."""
    result = Result()
    sent: set[tuple[str, str]] = set()
    done: set[tuple[str, str]] = set()
    ended: set[tuple[str, str]] = set()
    ran: Counter[tuple[str, str]] = Counter()
    for line in lines:
        word, kind, number, *rest = line.split(" ", 3)
        key = kind, number.strip()
        if word == "sent":
            sent.add(key)
        elif word == "done":
            done.add(key)
            ended.add(key)
        elif word == "failed":
            ended.add(key)
            result.failed.append(f"{kind} {number}: {' '.join(rest).strip()}")
        elif word == "ran":
            ran[key] += 1
    result.sent, result.done = (Counter(kind for kind, _ in keys) for keys in (sent, done))
    result.ran = Counter(kind for kind, _ in ran)
    result.lost = _named(key for key in done if not ran[key])
    result.twice = _named(key for key, count in ran.items() if count > 1 and _once(key))
    result.again = _named(key for key, count in ran.items() if count > 1 and not _once(key))
    result.unknown = _named(key for key in ran if ran[key] and key not in sent)
    result.unfinished = _named(sent - ended)
    return result


def _once(key: tuple[str, str]) -> bool:
    return key[0] != "notification"


def _named(keys: Iterable[tuple[str, str]]) -> list[str]:
    return sorted(f"{kind} {number}" for kind, number in keys)
