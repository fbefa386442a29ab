"""What an application reports about its connections, line by line."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Entry:
    """Something that happened on one connection. Times are ``time.monotonic()``, in seconds:
    one clock for every process of a machine.

    Attributes:
        kind: ``up``; ``unreachable`` (could not be opened); ``accepted``, ``confirmed``,
            ``refused`` (what became of a publish); ``lost`` (hbshim gave the link up);
            ``down`` (a call raised: the application knows); ``closed`` (by the application);
            ``over`` (the session's last word got through).
        at: when it was over; for an operation that took time, `began` is its start.
        generation: number of this connection in its session, from 1.
        number: of the message.
        recoverable: for ``down``: existing code reconnects on this error.
        port: for ``up``: the connection's local port; 0 where it is not known.
    """

    kind: str
    name: str
    at: float
    generation: int = 0
    began: float = 0.0
    number: int = 0
    error: str = ""
    recoverable: bool = True
    port: int = 0


@dataclass
class Journal:
    """Everything that one process reported.

    Attributes:
        process: its name, `model-library`.
        entries: oldest first.
        lateness: worst seconds that a check was late by, for each worker; and `idle`, how
            late a native thread came that had nothing else to do: the machine's own share.
        starved: when, and for how many seconds, that thread did not get to run.
        jumps: seconds that the wall clock was seen to be off by.
        counters: hbshim's, as last reported.
        ended: it said so; a process that was killed or hangs does not.
    """

    process: str
    entries: list[Entry] = field(default_factory=list)
    lateness: dict[str, float] = field(default_factory=dict)
    starved: list[tuple[float, float]] = field(default_factory=list)
    jumps: set[int] = field(default_factory=set)
    counters: dict[str, int] = field(default_factory=dict)
    ended: bool = False

    def add(self, line: str) -> None:
        """Take one line of the application's standard output."""
        reported: dict[str, Any] = json.loads(line)
        kind = reported["kind"]
        if kind == "pulse":
            self.counters = reported["counters"]
            self.jumps.add(round(reported["jumped"]))
            self.starved.append((reported["at"], reported["lateness"]["idle"]))
            for worker, seconds in reported["lateness"].items():
                self.lateness[worker] = max(seconds, self.lateness.get(worker, 0.0))
        elif kind == "end":
            self.ended = True
        elif kind != "event":  # those are for readers of the file
            self.entries.append(Entry(**reported))
