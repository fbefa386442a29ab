"""The test router's view of the cells, from its lines."""

from __future__ import annotations

import json

from wsgi_harness.observe import router_log


def line(kind: str, number: int, at: float, container: str = "cell", **more: object) -> str:
    event = {"kind": kind, "connection": number, "at": at, "container": container, **more}
    return json.dumps(event)


def test_the_first_connection_that_was_closed_tells_the_story() -> None:
    lines = [
        "listening 0.0.0.0 5672",
        line("opened", 1, 1.0, idle_timeout=4),
        line("opened", 2, 2.0, idle_timeout=4),
        line("closed", 2, 7.0, reason="amqp:resource-limit-exceeded: local-idle-timeout expired"),
        line("closed", 1, 9.0, reason=""),
        line("opened", 3, 3.0, "other", idle_timeout=4),
    ]

    seen = router_log.read(lines)

    assert set(seen) == {"cell", "other"}
    view = seen["cell"]
    assert (view.opened, view.closed, view.heartbeat, view.connections) == (1.0, 7.0, 4, 2)
    assert view.missed_heartbeats
    assert [(life.opened, life.closed) for life in view.lives] == [(1.0, 9.0), (2.0, 7.0)]
    assert (seen["other"].closed, seen["other"].reason) == (None, "")
