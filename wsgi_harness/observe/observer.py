"""The broker's own view of each connection: its management API, sampled, and its log, read after.

A connection is known by the name that the client gave it, which is the cell's.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import requests

from wsgi_harness.errors import HarnessError
from wsgi_harness.observe.observation import BrokerView

_SAMPLE_EVERY = 0.5
_SAMPLE_LIMIT = 15.0

# "2026-01-01 10:20:30.123456+00:00 [error] <0.854.0> text"; RabbitMQ 3.8 to 4.x.
_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+\S*) \[(\w+)\] <([\d.]+)> ?(.*)")
_NAMED = re.compile(r"has a client-provided name: (.*)")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class BrokerUnobservableError(HarnessError):
    """The broker's management API does not answer, so nothing can be said about connections."""


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
    """The entries of RabbitMQ's log; lines that belong to none are passed over."""
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
    """What the log tells about each named connection; the first one of a name that has several.

    Parameters:
        lines: RabbitMQ's log.
    """
    views: dict[str, BrokerView] = {}
    first: dict[str, str] = {}  # name of the connection that a process serves, if it is the first
    for entry in entries(lines):
        named = _NAMED.search(entry.text)
        if named is not None:
            name = named[1].strip()
            if name not in views:
                views[name], first[entry.process] = BrokerView(opened=entry.at), name
            views[name] = replace(views[name], connections=views[name].connections + 1)
        elif entry.text.startswith("closing AMQP connection") and entry.process in first:
            name = first[entry.process]
            reason = " ".join(entry.text.splitlines()[1:]).strip()
            views[name] = replace(views[name], closed=entry.at, reason=reason)
    return views


class BrokerWatch:
    """Samples the management API from a thread of its own, until closed; a context manager.

    Parameters:
        connections: returns the open connections as the management API lists them.
    """

    def __init__(self, connections: Callable[[], list[dict[str, Any]]]) -> None:
        self._connections = connections
        self._samples: list[tuple[float, dict[str, int]]] = []
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
                continue  # whoever needs a sample waits for the next, with a limit
            named = {
                connection["client_properties"].get("connection_name", ""): connection["timeout"]
                for connection in listed
                # One that is still opening has neither.
                if connection.get("client_properties") and "timeout" in connection
            }
            with self._news:
                self._samples.append((asked, named))
                self._news.notify_all()

    def listed_now(self) -> frozenset[str]:
        """Names of the connections in a sample that is asked for from now on.

        Raises:
            BrokerUnobservableError: the management API does not answer.
        """
        since = time.time()
        with self._news:
            if self._news.wait_for(lambda: self._is_newer(since), _SAMPLE_LIMIT):
                return frozenset(self._samples[-1][1])
        raise BrokerUnobservableError(
            f"RabbitMQ's management API has not answered for {_SAMPLE_LIMIT:g} s; "
            "is the machine overloaded?"
        )

    def _is_newer(self, since: float) -> bool:
        return bool(self._samples) and self._samples[-1][0] >= since

    def add_to(self, view: BrokerView, name: str) -> BrokerView:
        """`view` with what the samples tell about the connection called `name`."""
        seen = [(at, named[name]) for at, named in list(self._samples) if name in named]
        if not seen:
            return view
        return replace(view, listed_until=seen[-1][0], heartbeat=seen[-1][1])
