"""The examples run as in their README: in the order that needs the broker to store most."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker

CHECKOUT = Path(__file__).parents[1]
DEPLOYMENT = CHECKOUT / "examples" / "deployment"


@pytest.mark.parametrize("scheme", ["hbkombu", "hbpika"])
def test_a_deployment_whose_processes_start_one_after_the_other(
    broker: Broker, vhost: str, scheme: str, tmp_path: Path
) -> None:
    url = broker.amqp_url(vhost=vhost).replace("amqp://", f"{scheme}://")
    environment = {**os.environ, "HBSHIM_BROKER_URL": url, "PYTHONPATH": str(CHECKOUT)}
    started: list[Any] = []

    def start(script: str, *arguments: str) -> tuple[subprocess.Popen[bytes], Callable[..., Any]]:
        output = tmp_path / f"{script}{len(started)}.out"
        with output.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, DEPLOYMENT / script, *arguments],
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        started.append(process)
        return process, output.read_text

    try:
        first_api, said_by_first_api = start("api.py", scheme)
        wait_until(lambda: said_by_first_api().endswith("\n"), 60)
        said, task_id = said_by_first_api().rsplit(maxsplit=1)
        assert said == "api: submitted"
        # It is killed; another one takes its place, by the id of the task.
        first_api.kill()
        first_api.wait(60)
        api, said_by_api = start("api.py", scheme, task_id)
        conductor, said_by_conductor = start("conductor.py")
        # The plan waits for an agent that does not run.
        wait_until(lambda: "waiting for the agent" in said_by_api(), 60)
        agent, said_by_agent = start("agent.py", scheme)
        assert api.wait(60) == 0, said_by_api()
        assert agent.wait(60) == 0, said_by_agent()
        conductor.terminate()
        assert conductor.wait(60) == 0, said_by_conductor()
    finally:
        for process in started:
            process.kill()
            process.wait(10)
    assert said_by_api().splitlines() == [
        f"api: progress: waiting for the agent of {scheme}",
        "api: progress: install: done",
        "api: progress: configure: done",
        "api: progress: start: done",
        f"api: result: {{'environment': '{scheme}', 'done': 3}}",
    ]
    assert said_by_conductor().splitlines() == ["conductor: ready"]


def test_a_service_on_asyncio(broker: Broker, vhost: str) -> None:
    url = broker.amqp_url(vhost=vhost).replace("amqp://", "hbpika://")
    process = subprocess.Popen(
        [sys.executable, "-u", CHECKOUT / "examples" / "asyncio" / "service.py"],
        env={**os.environ, "HBSHIM_BROKER_URL": url, "PYTHONPATH": str(CHECKOUT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = [line.strip() for line in iter(process.stdout.readline, "ready\n") if line]
        process.terminate()
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    parts = [f"part {n} of 3" for n in (1, 2, 3)]
    assert said == [*parts, "built of 3 parts", "20 digests", "gave up"]
    assert rest == "one was cancelled\n"


def test_the_readme_names_every_script() -> None:
    named = set(re.findall(r"python (\w+\.py)", (DEPLOYMENT / "README.md").read_text()))
    assert named == {path.name for path in DEPLOYMENT.glob("*.py")}
