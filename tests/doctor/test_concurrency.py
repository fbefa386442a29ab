"""The doctor inside programs: each concurrency model a script in an interpreter of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wsgi_harness.stack.broker import Broker

HERE = Path(__file__).parent / "concurrency"
CHECKOUT = Path(__file__).parent.parent.parent
ALONE = sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("broker_"))
MODELS = ("native", "eventlet", "gevent")


def run(script: str, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if "HBSHIM" not in key}
    return subprocess.run(
        # `-W error` but for eventlet's announcement of its own retirement.
        [sys.executable, "-W", "error", HERE / f"{script}.py", *argv],
        env={**inherited, "PYTHONPATH": str(CHECKOUT), "EVENTLET_TESTS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("script", ALONE)
def test_model(script: str) -> None:
    done = run(script)
    assert (done.returncode, done.stdout) == (0, "pass\n"), done.stdout + done.stderr


@pytest.mark.parametrize("client", ["amqp", "pika"])
@pytest.mark.parametrize("model", MODELS)
def test_a_heartbeat_is_observed_from_within(
    broker: Broker, tmp_path: Path, model: str, client: str
) -> None:
    ca = tmp_path / "ca.pem"
    assert broker.ca_pem
    ca.write_text(broker.ca_pem)
    secure = f"amqps://{broker.user}:{broker.password}@localhost:{broker.tls_port}/"
    done = run("broker_visit", model, client, str(ca), URL=broker.amqp_url(), TLS_URL=secure)
    assert (done.returncode, done.stdout) == (0, "pass\n"), done.stdout + done.stderr
