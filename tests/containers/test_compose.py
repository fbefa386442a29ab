"""containers/compose.yaml as Compose itself reads it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from wsgi_harness.engine.commands import run
from wsgi_harness.engine.engine import Engine
from wsgi_harness.paths import CONTAINERS


@pytest.fixture(scope="module")
def config(engine: Engine) -> dict[str, dict[str, dict[str, Any]]]:
    """The compose file, read and filled in by Compose."""
    options = ["--profile", "apache", "--file", str(CONTAINERS / "compose.yaml")]
    argv = [*engine.compose, *options, "config", "--format", "json"]
    parsed: dict[str, dict[str, dict[str, Any]]] = json.loads(
        run(argv, timeout=30, env=engine.environment)
    )
    return parsed


def test_has_the_broker_and_apache_and_builds_both(
    config: dict[str, dict[str, dict[str, Any]]],
) -> None:
    assert set(config["services"]) == {"rabbitmq", "apache"}
    bases = {name: each["build"]["args"]["BASE"] for name, each in config["services"].items()}
    assert bases == {"apache": "debian:bookworm-slim", "rabbitmq": "rabbitmq:4.0-management"}


def test_publishes_on_the_loopback_only_and_fixes_no_host_port(
    config: dict[str, dict[str, dict[str, Any]]],
) -> None:
    ports = [port for service in config["services"].values() for port in service["ports"]]
    assert {port["target"] for port in ports} == {80, 5671, 5672, 15672}
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert [port for port in ports if port.get("published")] == []


def test_mounts_the_code_read_only(config: dict[str, dict[str, dict[str, Any]]]) -> None:
    volumes = config["services"]["apache"]["volumes"]
    assert {volume["target"] for volume in volumes} == {
        "/srv/hbshim/hbshim",
        "/srv/hbshim/wsgi_harness",
    }
    assert all(volume["read_only"] for volume in volumes)


@pytest.mark.parametrize("script", sorted(CONTAINERS.glob("*/*.sh")), ids=lambda path: path.name)
def test_scripts_are_valid_bash(script: Path) -> None:
    checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True, timeout=10)
    assert (checked.returncode, checked.stderr) == (0, "")
