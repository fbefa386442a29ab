"""Finding an engine: the one that is there, and a clear refusal where there is none.

Where there is none: inside a container made from the Apache image, a whole Debian that has
Python but no engine.
"""

from pathlib import Path

import pytest

from wsgi_harness.engine.commands import silent
from wsgi_harness.engine.engine import MANUAL_STEPS, Engine, ensure_engine
from wsgi_harness.engine.images import Images
from wsgi_harness.errors import CommandError, EngineUnavailableError
from wsgi_harness.stack import services

LOOK_FOR_AN_ENGINE = """
import os, sys
from wsgi_harness.engine.engine import ensure_engine
from wsgi_harness.errors import EngineUnavailableError
try:
    ensure_engine(print)
except EngineUnavailableError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages, to be mounted."""
    return services.write_code(tmp_path_factory.mktemp("engine"))


def look_for_an_engine(engine: Engine, images: Images, code: Path, *options: str) -> str:
    """What is said where no engine is; whatever was attempted is in it."""
    mount = ["--volume", f"{code}:{services.CODE}:ro,z", "--env", f"PYTHONPATH={services.CODE}"]
    build = ["--env", "HBSHIM_BUILD_DIR=/tmp/build", "--network", "none"]
    program = ["--entrypoint", "/opt/venv/bin/python", images.apache, "-c", LOOK_FOR_AN_ENGINE]
    return engine.run("run", "--rm", *mount, *build, *options, *program)


def test_uses_what_answers_and_says_nothing(engine: Engine) -> None:
    lines: list[str] = []
    found = ensure_engine(lines.append)
    assert found == engine
    assert lines == []


def test_forbidden_to_install_it_says_so_and_names_the_steps(
    engine: Engine, images: Images, code: Path
) -> None:
    said = look_for_an_engine(engine, images, code, "--env", "HBSHIM_INSTALL_ENGINE=0")
    assert said.startswith(
        "no container engine is reachable, and HBSHIM_INSTALL_ENGINE=0 forbids installing anything"
    )
    assert said.strip().endswith(MANUAL_STEPS)
    assert "installing:" not in said


def test_without_root_it_says_so(engine: Engine, images: Images, code: Path) -> None:
    said = look_for_an_engine(engine, images, code, "--user", "www-data")
    assert said.startswith("no container engine is reachable, and installing needs root")
    assert said.strip().endswith(MANUAL_STEPS)


def test_says_what_it_installs_before_it_does_and_when_that_fails(
    engine: Engine, images: Images, code: Path
) -> None:
    # no network in there: apt is asked, and fails
    announced, *_, failed = look_for_an_engine(engine, images, code).splitlines()
    assert announced == (
        "no container engine is reachable; installing: apt-get install -y "
        "--no-install-recommends docker.io (HBSHIM_INSTALL_ENGINE=0 forbids this)"
    )
    assert "docker.io" in failed


def test_an_engine_that_is_named_but_dead_is_not_replaced(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine.kind != "docker":
        pytest.skip("needs the docker command")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(EngineUnavailableError, match="at DOCKER_HOST=unix:///nowhere/"):
        ensure_engine(silent)


def test_runs_commands_and_reports_their_failure(engine: Engine) -> None:
    assert engine.inspect_image("no-such-image:at-all", "{{.Id}}") is None
    with pytest.raises(CommandError, match="no-such-image"):
        engine.run("image", "inspect", "no-such-image:at-all")
