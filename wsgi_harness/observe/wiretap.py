"""The relay between the cells and the broker: as a service, and its output."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from wsgi_harness.observe.observation import WireView
from wsgi_harness.stack.stack import BROKER, CellService

#: Name of the relay's service, and its host name for the cells.
RELAY = "relay"
_FIRST_PORT = 20000
_BROKER_PORT = 5672
#: Address for cells that encrypt: the relay could not parse their frames.
ENCRYPTED = (BROKER, 5671)


def addresses(cells: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Return host and port at which each cell reaches the relay; the port identifies the cell."""
    return {cell: (RELAY, _FIRST_PORT + number) for number, cell in enumerate(cells)}


def service(cells: Sequence[str]) -> CellService:
    """Return the relay as one more container of the stack."""
    listen = [f"--listen={cell}={port}" for cell, (_, port) in addresses(cells).items()]
    program = ("/opt/venv/bin/python", "-m", "wsgi_harness.wire.relay")
    return CellService(RELAY, entrypoint=(*program, f"--target={BROKER}:{_BROKER_PORT}", *listen))


def read(lines: Sequence[str]) -> Mapping[str, WireView]:
    """Return what the relay wrote, by cell.

    Parameters:
        lines: the relay's standard output.
    """
    events: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        if line.startswith("{"):
            event = json.loads(line)
            events[event["cell"]].append(event)
    return defaultdict(WireView, {cell: _view(seen) for cell, seen in events.items()})


def _view(events: list[dict[str, Any]]) -> WireView:
    def heartbeats(side: str) -> tuple[float, ...]:
        return tuple(
            event["at"]
            for event in events
            if event["kind"] == "heartbeat" and event["side"] == side
        )

    ends = [event for event in events if event["kind"] in ("fin", "rst")]
    errors = [event for event in events if event["kind"] in ("malformed", "torn", "unreachable")]
    return WireView(
        client_heartbeats=heartbeats("client"),
        server_heartbeats=heartbeats("server"),
        ended=ends[0]["at"] if ends else None,
        ended_by=ends[0]["side"] if ends else "",
        errors=tuple(f"{event['kind']}: {event.get('detail', '')}" for event in errors),
    )
