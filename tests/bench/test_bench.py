"""The benchmarks measure what they claim; figures are never asserted here."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import amqp
import pytest

from hbshim.bench import engine_load, lateness, suite, throughput
from hbshim.bench.sinks import open_idle, running_sink
from tests.concurrency import MODEL
from wsgi_harness.stack.broker import Broker

pytestmark = pytest.mark.skipif(MODEL != "native", reason="benchmarks patch their own processes")


def bench(*argv: str, **environment: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hbshim", "bench", *argv],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )


def test_the_sink_speaks_enough_amqp_for_open_heartbeat_and_close() -> None:
    with running_sink(2) as port:
        connection = open_idle(f"127.0.0.1:{port}", "guest", "guest", 2)
        assert connection.heartbeat == 2
        connection.channel().close()
        received = connection.bytes_recv
        connection.blocking_read(timeout=10)  # a heartbeat; anything else would be an error
        assert connection.bytes_recv == received + 1
        connection.close()
        assert not connection.connected


def test_the_sinks_connections_end_with_it() -> None:
    with running_sink(2) as port:
        connection = open_idle(f"127.0.0.1:{port}", "guest", "guest", 2)
    with pytest.raises((OSError, amqp.exceptions.AMQPError)):
        while True:
            connection.drain_events(timeout=10)
    connection.collect()


def test_engine_load_counts_the_heartbeats_and_the_time_of_the_engines_own_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_load, "TIMEOUT", 1)
    measured = engine_load.measure(20, 2.0, None)
    assert measured["links"] == 20
    assert measured["lost"] == 0
    assert measured["heartbeats"] >= 20
    assert 0 < measured["core_share"] < 1


def test_lateness_is_of_checks_that_really_took_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lateness, "TIMEOUT", 1)
    measured = lateness.measure("idle", 2.0, 10)
    assert measured["checks"] >= 20
    assert measured["heartbeats"] >= 10
    assert measured["p50_ms"] <= measured["p99_ms"] <= measured["max_ms"]


def test_throughput_compares_bursts_on_the_real_broker(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throughput, "PAIRS", 5)
    measured = throughput.compare("py-amqp", broker.amqp_url(), rounds=1)
    assert measured["pairs"] == 5
    assert measured["lower_quartile"] <= measured["ratio"] <= measured["upper_quartile"]
    assert measured["cpu_ratio"] > 0


def test_without_a_broker_the_throughput_is_said_to_be_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = suite.run(["throughput"], None, quick=True, progress=lambda _: None)
    assert result["throughput"] is None
    suite.print_tables(result)
    assert "left out" in capsys.readouterr().out


def test_figures_as_json_for_programs() -> None:
    done = bench("--quick", "--json", "import", "memory")
    figures = json.loads(done.stdout)
    assert figures["import"]["pairs"] >= 5
    assert 0 < figures["memory"]["bytes_per_link"] < 12_000


def test_an_unknown_benchmark_is_named_with_those_there_are() -> None:
    done = bench("speed")
    assert done.returncode == 2
    assert "speed; there are: import, memory" in done.stderr
    assert "Traceback" not in done.stderr
