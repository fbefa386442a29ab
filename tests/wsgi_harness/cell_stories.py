"""Observations for tests: a cell whose connection lived, and one whose connection died."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from wsgi_harness.matrix.scenarios import SCENARIOS, Scenario
from wsgi_harness.observe.observation import (
    BrokerView,
    Life,
    Messages,
    Observation,
    Probe,
    Request,
    WireView,
)

HEARTBEAT = 4
BEGAN = 1_000_000.0
SILENCE = (BEGAN, BEGAN + 24.5)
SCENARIO = {scenario.name: scenario for scenario in SCENARIOS}


def scenario(name: str) -> Scenario:
    """The scenario called `name`."""
    return SCENARIO[name]


def probe(worst: float) -> Probe:
    """A probe that ran four times a second in the silence, and was so late at worst."""
    due = [BEGAN + number / 4 for number in range(97)]
    return Probe(tuple((at, at + 0.001) for at in due), due[-1] + 0.25, worst)


def alive(name: str) -> Observation:
    """The connection lived, the second request published everything."""
    return Observation(
        name,
        silence=SILENCE,
        requests=(
            Request("open", BEGAN - 0.1, BEGAN, 200),
            Request("publish", SILENCE[1], SILENCE[1] + 0.01, 200),
        ),
        broker=BrokerView(
            opened=BEGAN - 0.05,
            heartbeat=HEARTBEAT,
            listed_until=SILENCE[1] - 0.5,
            listed_after_silence=True,
            connections=1,
        ),
        wire=WireView(
            client_heartbeats=tuple(BEGAN + 2 * number for number in range(1, 13)),
            server_heartbeats=tuple(BEGAN + 2 * number for number in range(1, 13)),
        ),
        green=probe(24.5),
        native=probe(0.01),
        messages=Messages(asked=20, accepted=20, arrived=20),
        shim={
            "detected": {"choice": {"worker": "pthread", "reason": "The hub is parked."}},
            "counters": {"heartbeats_sent": 12},
            "events": [],
        },
        versions={"python": "3.11.2"},
    )


def closed(name: str) -> Observation:
    """The broker closed the connection after 3 T, the second request failed."""
    lived = alive(name)
    error = "ConnectionResetError: [Errno 104] Connection reset by peer"
    return replace(
        lived,
        requests=(lived.requests[0], Request("publish", SILENCE[1], SILENCE[1] + 0.01, 500, error)),
        broker=replace(
            lived.broker,
            closed=BEGAN + 12,
            reason="missed heartbeats from client, timeout: 4s",
            listed_until=BEGAN + 11.8,
            listed_after_silence=False,
        ),
        wire=WireView(
            server_heartbeats=(BEGAN + 2, BEGAN + 4), ended=BEGAN + 12, ended_by="server"
        ),
        messages=Messages(asked=20, accepted=0, arrived=0),
        shim=None,
    )


def several(observation: Observation, ends: Sequence[float | None]) -> Observation:
    """The same with a connection for each of `ends`, which is when the broker closed it."""
    lives = tuple(Life(BEGAN - 0.05, end) for end in ends)
    closed = [end for end in ends if end is not None and end <= SILENCE[1]]
    broker = replace(
        observation.broker,
        lives=lives,
        kept=len(lives),
        connections=len(lives),
        closed=min(closed, default=None),
        listed_after_silence=not closed,
    )
    return replace(observation, broker=broker)


def warned(observation: Observation) -> Observation:
    """The same with hbshim's warning about a forced worker."""
    event = {"kind": "choice-warning", "detail": "The host parks the hub."}
    shim = {
        "detected": {"choice": {"worker": "greenthread", "reason": "The option is set."}},
        "counters": {},
        "events": [event],
    }
    return replace(observation, shim=shim)
