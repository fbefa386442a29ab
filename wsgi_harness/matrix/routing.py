"""The test router of the cells on AMQP 1.0, and what receives there."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from wsgi_harness.matrix.brokers import ROUTER, brokers_of, queues_at
from wsgi_harness.matrix.scenarios import Scenario, queue_of
from wsgi_harness.stack.stack import CellService

SINK = "sink"
_PYTHON = "/opt/venv/bin/python"
_PORT = 5672
#: Where the driver over AMQP 1.0 sends a notification: prefix, exchange, topic and priority.
_NOTIFICATION = "openstack.org/om/notify/anycast/openstack/{}.info"


def services(scenarios: Sequence[Scenario], heartbeat: int) -> list[CellService]:
    """Return the router and its receiver, as further containers; none if no cell needs them.

    Parameters:
        heartbeat: T, in seconds: the router closes a connection that is silent for as long.
    """
    if not any(ROUTER in brokers_of(each) for each in scenarios):
        return []
    addresses = [
        address for each in routed(scenarios) for address in (address_of(each), *_opened_at(each))
    ]
    router = (_PYTHON, "-m", "wsgi_harness.router", "--report", "--host=0.0.0.0")
    sink = (_PYTHON, "-m", "wsgi_harness.cell.sink", f"{ROUTER}:{_PORT}")
    services = [
        CellService(ROUTER, entrypoint=(*router, f"--port={_PORT}", f"--idle-timeout={heartbeat}"))
    ]
    if addresses:
        services.append(CellService(SINK, entrypoint=(*sink, *addresses)))
    return services


def routed(scenarios: Sequence[Scenario]) -> list[Scenario]:
    """Return those whose messages go through the router."""
    return [each for each in scenarios if queues_at(each) == ROUTER]


def address_of(scenario: Scenario) -> str:
    """Return where the messages of a cell arrive."""
    if scenario.deployment.oslo:
        return _NOTIFICATION.format(queue_of(scenario))
    return queue_of(scenario)


def _opened_at(scenario: Scenario) -> list[str]:
    """Return where the notification of the first request arrives, if there is one."""
    return [_NOTIFICATION.format(f"{scenario.name}.opened")] if scenario.deployment.oslo else []


def received(lines: Iterable[str]) -> Mapping[str, list[str]]:
    """Return the bodies that the receiver has printed, by address."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        if line.startswith("{"):
            message = json.loads(line)
            found[message["address"]].append(message["body"])
    return found
