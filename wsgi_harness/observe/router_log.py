"""The test router's view of each connection, from the lines of its option ``--report``."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from wsgi_harness.observe.observation import BrokerView, Life


def read(lines: Sequence[str]) -> Mapping[str, BrokerView]:
    """Return what the router reports about the connections of each container-id.

    Parameters:
        lines: the router's standard output.
    """
    events = [json.loads(line) for line in lines if line.startswith("{")]
    named: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        # oslo.messaging's driver has one container in each of its connections.
        named[event["container"].partition(":")[0]].append(event)
    return {name: _view(each) for name, each in named.items()}


def _view(events: Sequence[Mapping[str, Any]]) -> BrokerView:
    opened = [event for event in events if event["kind"] == "opened"]
    lives = {event["connection"]: Life(event["at"]) for event in opened}
    closed = [event for event in events if event["kind"] == "closed"]
    for event in closed:
        number = event["connection"]
        lives[number] = replace(lives.get(number, Life(event["at"])), closed=event["at"])
    first = min(closed, key=lambda event: float(event["at"]), default=None)
    return BrokerView(
        opened=min((life.opened for life in lives.values()), default=None),
        closed=None if first is None else first["at"],
        reason="" if first is None else first["reason"],
        heartbeat=min((event["idle_timeout"] for event in opened), default=None),
        connections=len(lives),
        lives=tuple(lives.values()),
    )
