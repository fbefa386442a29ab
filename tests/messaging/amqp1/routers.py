"""Test routers for the driver over AMQP 1.0."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.proton import require_proton
from wsgi_harness.router.plan import Plan, free_port
from wsgi_harness.router.process import RouterProcess

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Router:
    """A test router that runs."""

    process: RouterProcess
    port: int


def plan(port: int, *, idle: int = 16, **router: Any) -> Plan:
    """Return the plan of a router that distributes as the driver's addresses have it.

    Parameters:
        idle: seconds after which it closes a silent connection; 0: never.
    """
    prefix = "openstack.org/om"
    ways = {"multicast": "multicast", "unicast": "closest", "anycast": "balanced"}
    return Plan(
        [
            ("router", {"mode": "standalone", "id": "laboratory", **router}),
            (
                "listener",
                {"host": HOST, "port": port, "role": "normal", "idleTimeoutSeconds": idle},
            ),
            *(
                ("address", {"prefix": f"{prefix}/{kind}/{way}", "distribution": distribution})
                for kind in ("rpc", "notify")
                for way, distribution in ways.items()
            ),
        ]
    )


def running(*, idle: int = 16) -> Iterator[Router]:
    """Run a router; see :func:`plan`."""
    python = require_proton()
    port = free_port()
    process = RouterProcess(plan(port, idle=idle), python=python)
    try:
        yield Router(process, port)
    finally:
        process.stop()
