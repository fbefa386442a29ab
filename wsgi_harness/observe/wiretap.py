"""The relay between the cells and the broker: as a service, and its output."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from wsgi_harness.observe.observation import WireView
from wsgi_harness.stack.stack import BROKER, CellService

#: The relay to the broker of most cells.
RELAY = "relay"
_FIRST_PORT = 20000
_BROKER_PORT = 5672
#: Address for cells that encrypt: the relay could not parse their frames.
ENCRYPTED = (BROKER, 5671)


def relay_to(broker: str) -> str:
    """Return the name of the service that relays to a broker, which is its host name."""
    return RELAY if broker == BROKER else f"{RELAY}-{broker}"


def addresses(cells: Sequence[str], broker: str = BROKER) -> dict[str, tuple[str, int]]:
    """Return host and port at which each cell reaches its relay; the port identifies it."""
    relay = relay_to(broker)
    return {cell: (relay, _FIRST_PORT + number) for number, cell in enumerate(cells)}


def service(cells: Sequence[str], broker: str = BROKER) -> CellService:
    """Return the relay to a broker as one more container of the stack."""
    listen = [f"--listen={cell}={port}" for cell, (_, port) in addresses(cells).items()]
    program = ("/opt/venv/bin/python", "-m", "wsgi_harness.wire.relay")
    target = f"--target={broker}:{_BROKER_PORT}"
    return CellService(relay_to(broker), entrypoint=(*program, target, *listen))


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

    # A cell may have several relays, one after the other here.
    events = sorted(events, key=lambda event: float(event["at"]))
    ends = [event for event in events if event["kind"] in ("fin", "rst")]
    errors = [event for event in events if event["kind"] in ("malformed", "torn", "unreachable")]
    return WireView(
        client_heartbeats=heartbeats("client"),
        server_heartbeats=heartbeats("server"),
        ended=ends[0]["at"] if ends else None,
        ended_by=ends[0]["side"] if ends else "",
        errors=tuple(f"{event['kind']}: {event.get('detail', '')}" for event in errors),
    )
