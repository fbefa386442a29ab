"""Calls over TLS: publishers, the reader and forced heartbeats share each connection."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from hbshim.heartbeat import engine as engine_module
from hbshim.heartbeat import schedule, service
from hbshim.messaging import Client, Server, Target
from hbshim.messaging.amqp.driver import AmqpDriver
from hbshim.messaging.hosts import Host
from tests.messaging.conftest import LIMIT, at_once
from tests.messaging.endpoints import Endpoint
from wsgi_harness.stack.broker import Broker

SECONDS = float(os.environ.get("HBSHIM_TLS_SECONDS", "4"))
#: Seconds between two checks of the engine; at each a heartbeat is due.
EVERY = 0.005
CALLERS = 6
#: Below, at and above a TLS record (16 KiB) and an AMQP frame (128 KiB).
SIZES = (0, 100, 16_000, 17_000, 130_000, 300_000)


@pytest.fixture
def forced_heartbeats(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Have a heartbeat found due on every link, at every check."""

    def force() -> None:
        monkeypatch.setattr(schedule, "SLOT", EVERY)
        monkeypatch.setattr(engine_module, "SLOT", EVERY)
        current = service.current()
        for link, engine in current.placements():
            view = link.wire.kernel_view
            monkeypatch.setattr(link, "timeout", 2 * EVERY)
            monkeypatch.setattr(
                link.wire,
                "kernel_view",
                lambda view=view: view()._replace(sent_ago=float("inf"), received_ago=0.0),
            )
            engine.watch(link)

    return force


def test_replies_are_whole_and_no_connection_is_lost(
    drivers: Callable[..., AmqpDriver],
    serve: Callable[..., Server],
    target: Target,
    broker: Broker,
    tmp_path: Path,
    forced_heartbeats: Callable[[], None],
) -> None:
    assert broker.ca_pem
    assert broker.tls_port
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text(broker.ca_pem)
    host = Host("127.0.0.1", broker.tls_port, broker.user, broker.password)
    secure = {"ssl": True, "ssl_options": {"cafile": str(ca_file)}}
    serve(drivers(host, **secure), target.to(server="one"), Endpoint(), workers=4)
    client = Client(drivers(host, **secure), target, timeout=LIMIT)
    assert client.call("echo", value="open") == "open"
    forced_heartbeats()
    before = service.current().metrics.snapshot()
    end = time.monotonic() + SECONDS

    def call_on(seed: int) -> int:
        draw = Random(seed)
        calls = 0
        while time.monotonic() < end:
            value = f"{seed}-{calls}-" + "x" * draw.choice(SIZES)
            assert client.call("echo", value=value) == value
            calls += 1
        return calls

    done = at_once(*[lambda seed=seed: call_on(seed) for seed in range(CALLERS)])
    assert all(isinstance(calls, int) and calls > 0 for calls in done), done
    after = service.current().metrics.snapshot()
    assert after["heartbeats_sent"] - before.get("heartbeats_sent", 0) > SECONDS
    for event in ("link-silent", "peer-closed", "write-broken-off", "check-failed"):
        assert after.get(f"event:{event}", 0) == before.get(f"event:{event}", 0)
