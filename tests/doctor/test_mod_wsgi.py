"""The doctor called inside Apache prefork with mod_wsgi, in a request, under eventlet."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.brokers import SharedBroker
from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import Images
from wsgi_harness.errors import NotReadyError
from wsgi_harness.stack import services
from wsgi_harness.stack.broker import wait_until

CHECKOUT = Path(__file__).parent.parent.parent


@pytest.fixture
def found(
    engine: Engine, images: Images, shared_broker: SharedBroker, tmp_path: Path, interpreter: str
) -> Iterator[dict[str, dict[str, str]]]:
    """What it finds there, by check."""
    unused = shutil.ignore_patterns("__pycache__")
    shutil.copytree(CHECKOUT / "hbshim", tmp_path / "hbshim", ignore=unused)
    script = tmp_path / "wsgi_harness" / "cell" / "app.py"
    script.parent.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("hosted_app.py"), script)
    tmp_path.chmod(0o755)
    broker = shared_broker.broker
    url = f"amqp://{broker.user}:{broker.password}@{services.BROKER}:5672/"
    variables = {
        "HOSTED_PATCH": "eventlet",
        "HOSTED_URL": url,
        "WSGI_MODE": "embedded",
        "WSGI_INTERPRETER": interpreter,
    }
    container = engine.run(
        "run",
        "--detach",
        "--publish=127.0.0.1::80",
        f"--network={shared_broker.network}",
        f"--volume={tmp_path}:/srv/hbshim:ro,z",
        *(f"--env={name}={value}" for name, value in variables.items()),
        images.apache,
    ).strip()
    try:
        address = f"http://{engine.run('port', container, '80').splitlines()[0]}"

        def check_alive() -> None:
            try:
                assert requests.get(f"{address}/-/alive", timeout=10).status_code == 204
            except requests.RequestException as error:
                raise NotReadyError(str(error)) from error

        wait_until(check_alive, limit=60)
        answer = requests.get(address, timeout=120)
        assert answer.status_code == 200, engine.run("logs", container)
        yield {each["check"]: each for each in answer.json()["findings"]}
    finally:
        engine.run("rm", "--force", "--volumes", container)


@pytest.mark.parametrize("interpreter", ["main", "sub"])
def test_a_heartbeat_is_observed_while_the_hub_is_parked(
    found: dict[str, dict[str, str]], interpreter: str
) -> None:
    for check in (
        "worker",
        "patching",
        "pollers",
        "interpreter",
        "connection",
        "heartbeat-out",
        "heartbeat-in",
    ):
        assert found[check]["verdict"] == "ok", found[check]
    assert "leaves the hub parked" in found["worker"]["sentence"]
    assert "from pthread;" in found["heartbeat-out"]["sentence"]
    assert ("sub-interpreter" in found["interpreter"]["sentence"]) == (interpreter == "sub")
    # hbshim is not installed there, only mounted, so the answer is unknown.
    assert found["libraries"]["verdict"] == "unknown"
