"""What clients and servers of a run report, line by line."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Message:
    """One call, cast, fanout or notification, as its sender saw it.

    Attributes:
        what: which of :data:`tests.stress.chaos.zmq.faults.SENDS`.
        client: the name of its process.
        began, ended: of ``time.monotonic()``.
        error: the class of what was raised; empty: nothing was.
        ends: how often it has ended.
        value: what a call returned.
    """

    id: str
    what: str
    client: str
    began: float
    timeout: float
    ended: float = 0.0
    error: str = ""
    text: str = ""
    ends: int = 0
    value: object = None


@dataclass(frozen=True)
class Run:
    """A server has begun a message.

    Attributes:
        again: the message was marked as one that may have been begun before.
        server: the name of its process.
    """

    id: str
    at: float
    server: str
    again: bool


@dataclass
class Journal:
    """Everything that the processes of a run reported.

    Attributes:
        messages: by id.
        runs: in order of arrival.
        starved: process, time, and for how many seconds a native thread of it did not get to run.
        counters: of each process, as last reported.
        forks: how many children have ended well.
        lives: when each server started, and when it was ended.
    """

    messages: dict[str, Message] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    starved: list[tuple[str, float, float]] = field(default_factory=list)
    counters: dict[str, dict[str, float]] = field(default_factory=dict)
    forks: int = 0
    lives: dict[str, list[float]] = field(default_factory=dict)

    def add(self, process: str, line: str) -> str:
        """Take one line of a process; return its kind."""
        reported: dict[str, Any] = json.loads(line)
        kind = str(reported.pop("kind"))
        if kind == "began":
            message = Message(client=process, **reported)
            self.messages[message.id] = message
        elif kind == "ended":
            message = self.messages[reported.pop("id")]
            message.ends += 1
            for name, value in reported.items():
                setattr(message, name, value)
        elif kind == "ran":
            self.runs.append(Run(server=process, **reported))
        elif kind == "starved":
            self.starved.append((process, reported["at"], reported["seconds"]))
        elif kind == "counters":
            self.counters[process] = reported["counters"]
        elif kind == "forked":
            self.forks += 1
        return kind
