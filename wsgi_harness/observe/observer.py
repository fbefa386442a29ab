"""The broker's view of each connection: its management API, sampled, and its log, read afterwards.

A connection is identified by the name that the client gave it: that of the cell, or one that begins
with that of the cell and a colon.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import requests

from wsgi_harness.errors import HarnessError
from wsgi_harness.observe.observation import BrokerView, Life

_SAMPLE_EVERY = 0.5
_SAMPLE_LIMIT = 15.0

# "2026-01-01 10:20:30.123456+00:00 [error] <0.854.0> text"; RabbitMQ 3.8 to 4.x.
_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+\S*) \[(\w+)\] <([\d.]+)> ?(.*)")
# Over AMQP 1.0 a connection has the name of its container.
_NAMED = re.compile(
    r"has a client-provided name: (.*)|onnection from AMQP 1\.0 container '([^']*)'"
)
_CLOSING = ("closing AMQP connection", "Error on AMQP 1.0 connection")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class BrokerUnobservableError(HarnessError):
    """The broker's management API does not answer, so the state of connections is unknown."""


@dataclass(frozen=True)
class LogEntry:
    """One entry of RabbitMQ's log; `text` may have several lines."""

    at: float
    level: str
    process: str
    text: str


def without_colour(text: str) -> list[str]:
    """The lines of a container's log, without terminal sequences."""
    return _ANSI.sub("", text).splitlines()


def entries(lines: Sequence[str]) -> Iterator[LogEntry]:
    """Return the entries of RabbitMQ's log; lines that belong to no entry are skipped."""
    entry: LogEntry | None = None
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        at = datetime.fromisoformat(match[1]).timestamp()
        # The lines of one entry repeat its time and process.
        if entry is not None and (entry.at, entry.process) == (at, match[3]):
            entry = replace(entry, text=f"{entry.text}\n{match[4]}")
            continue
        if entry is not None:
            yield entry
        entry = LogEntry(at, match[2], match[3], match[4])
    if entry is not None:
        yield entry


def read_log(lines: Sequence[str]) -> Mapping[str, BrokerView]:
    """Return what the log reports about the connections of each name.

    Parameters:
        lines: RabbitMQ's log.
    """
    lives: dict[str, dict[str, Life]] = defaultdict(dict)  # by name and by the process that serves
    reasons: dict[str, str] = {}
    names: dict[str, str] = {}
    for entry in entries(lines):
        named = _NAMED.search(entry.text)
        if named is not None:
            name = names[entry.process] = _cell_of((named[1] or named[2]).strip())
            lives[name][entry.process] = Life(entry.at)
        elif entry.text.startswith(_CLOSING) and entry.process in names:
            of_broker = lives[names[entry.process]]
            # Over AMQP 1.0 an error is followed by the end of the stream, some seconds later.
            if entry.process not in reasons:
                of_broker[entry.process] = replace(of_broker[entry.process], closed=entry.at)
                reasons[entry.process] = " ".join(entry.text.splitlines()[1:]).strip(' "<>')
    return {name: _view(each, reasons) for name, each in lives.items()}


def _view(lives: Mapping[str, Life], reasons: Mapping[str, str]) -> BrokerView:
    ends = {life.closed: process for process, life in lives.items() if life.closed is not None}
    closed = min(ends, default=None)
    return BrokerView(
        opened=min(life.opened for life in lives.values()),
        closed=closed,
        reason="" if closed is None else reasons[ends[closed]],
        connections=len(lives),
        lives=tuple(lives.values()),
    )


def _cell_of(connection: str) -> str:
    return connection.partition(":")[0]


class BrokerWatch:
    """Samples the management API from its own thread, until closed; a context manager.

    Parameters:
        connections: returns the open connections as the management API lists them.
    """

    def __init__(self, connections: Callable[[], list[dict[str, Any]]]) -> None:
        self._connections = connections
        self._samples: list[tuple[float, dict[str, list[int]]]] = []
        self._news = threading.Condition()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="broker-watch", daemon=True)

    def __enter__(self) -> BrokerWatch:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join(_SAMPLE_LIMIT)

    def _run(self) -> None:
        while not self._over.wait(_SAMPLE_EVERY):
            asked = time.time()
            try:
                listed = self._connections()
            except requests.RequestException:
                continue  # a caller that needs a sample waits for the next, with a limit
            named: dict[str, list[int]] = defaultdict(list)
            for connection in listed:
                # One that is still opening has neither.
                if connection.get("client_properties") and "timeout" in connection:
                    name = connection["client_properties"].get("connection_name", "")
                    named[_cell_of(name)].append(connection["timeout"])
            with self._news:
                self._samples.append((asked, named))
                self._news.notify_all()

    def listed_now(self) -> Counter[str]:
        """Return how many connections of a name are in the next sample.

        Raises:
            BrokerUnobservableError: the management API does not answer.
        """
        since = time.time()
        with self._news:
            if self._news.wait_for(lambda: self._is_newer(since), _SAMPLE_LIMIT):
                return Counter({name: len(each) for name, each in self._samples[-1][1].items()})
        raise BrokerUnobservableError(
            f"RabbitMQ's management API has not answered for {_SAMPLE_LIMIT:g} s; "
            "is the machine overloaded?"
        )

    def _is_newer(self, since: float) -> bool:
        return bool(self._samples) and self._samples[-1][0] >= since

    def add_to(self, view: BrokerView, name: str) -> BrokerView:
        """Return `view` with the samples of the connections called `name`."""
        seen = [(at, named[name]) for at, named in list(self._samples) if name in named]
        if not seen:
            return view
        return replace(view, listed_until=seen[-1][0], heartbeat=min(seen[-1][1]))
