"""A run as plain data, for JSON; see docs/regression.md for the fields."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timezone
from typing import Any

from wsgi_harness.matrix.run import Results
from wsgi_harness.matrix.scenarios import SILENCE, Scenario
from wsgi_harness.matrix.verdict import Verdict, exit_code
from wsgi_harness.observe.observation import Observation

#: Increased when a field changes its meaning or is removed.
FORMAT = 1


def as_data(results: Results) -> dict[str, Any]:
    """Return the whole run as plain values that ``json.dumps`` accepts."""
    code = exit_code(results.verdicts)
    return {
        "format": FORMAT,
        "ok": code == 0,
        "exit_code": code,
        "began": _utc(results.began),
        "heartbeat": results.heartbeat,
        "silence": SILENCE * results.heartbeat,
        "broker": results.broker,
        "engine": results.engine,
        "durations": {name: round(took, 2) for name, took in results.durations.items()},
        "cells": [
            _cell(scenario, seen, verdict)
            for scenario, seen, verdict in zip(
                results.scenarios, results.observations, results.verdicts, strict=True
            )
        ],
    }


def _cell(scenario: Scenario, seen: Observation, verdict: Verdict) -> dict[str, Any]:
    observed = dataclasses.asdict(seen)
    return {
        "name": scenario.name,
        "method": scenario.method.key,
        "library": scenario.library,
        "deployment": scenario.deployment.key,
        "expected": scenario.expected,
        "reason": scenario.reason,
        "outcome": verdict.outcome.name.lower(),
        "ok": verdict.outcome.ok,
        "seen": verdict.seen,
        "why": list(verdict.why),
        "notes": list(verdict.notes),
        "failed_requests": seen.failed_requests,
        "lost_messages": seen.messages.lost,
        "swallowed_messages": seen.messages.swallowed,
        **{name: observed[name] for name in observed if name != "scenario"},
    }


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
