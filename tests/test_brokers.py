"""The processes of a test run share its brokers, and the outermost one removes them."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import brokers
from tests.brokers import SharedBroker
from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import Images
from wsgi_harness.stack.broker import Broker

CHECKOUT = Path(__file__).parents[1]
IMAGES = Images(rabbitmq="broker", apache="apache", own_rabbitmq=True)

#: Finds the broker of the run, and dies as a worker may.
WORKER = """
import os, signal
from tests.brokers import start_or_find
from wsgi_harness.engine.images import prepare
found = start_or_find("rabbitmq", *prepare())
print(found.project, found.broker.amqp_port, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_another_process_finds_the_broker_and_may_die(shared_broker: SharedBroker) -> None:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        [sys.executable, "-c", WORKER], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == [shared_broker.project, str(shared_broker.broker.amqp_port)]
    assert done.returncode == -signal.SIGKILL
    shared_broker.broker.check_ready()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[str]]:
    """Outside of any run; returns what a container engine was asked to do, a word for each."""
    monkeypatch.delenv(brokers.VARIABLE)
    monkeypatch.setenv("HBSHIM_BUILD_DIR", str(tmp_path / "build"))
    monkeypatch.setattr(Broker, "check_ready", lambda self: None)
    log = tmp_path / "log"
    script = tmp_path / "engine"
    script.write_text(
        "#!/bin/sh\n"
        f'for word; do case $word in up|down|exec) echo $word >>"{log}";; esac; done\n'
        'if [ "$1" = port ]; then\n'
        "  for port in 5671 5672 15672; do echo $port/tcp -\\> 127.0.0.1:1$port; done\n"
        "fi\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return lambda: log.read_text().split()


@pytest.fixture
def pretended(tmp_path: Path) -> Engine:
    """The engine behind :func:`asked`."""
    command = (str(tmp_path / "engine"),)
    return Engine("docker", "0", client=command, builder=command, compose=command)


def test_a_broker_is_started_once_and_removed_by_the_outermost(
    asked: Callable[[], list[str]], pretended: Engine
) -> None:
    with brokers.held():
        with brokers.held():
            first = brokers.start_or_find("one", pretended, IMAGES)
            assert brokers.start_or_find("one", pretended, IMAGES).project == first.project
        assert asked() == ["up"]
        other = brokers.start_or_find("other", pretended, IMAGES)
        assert first.project != other.project
        assert first.broker.amqp_port == 15672
        directory = Path(os.environ[brokers.VARIABLE])
    assert asked() == ["up", "up", "down", "down"]
    assert not directory.exists()
    assert brokers.VARIABLE not in os.environ


def test_what_a_dying_process_has_started_is_removed_too(
    asked: Callable[[], list[str]], pretended: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with brokers.held():
        monkeypatch.setattr(brokers, "_ports", die)
        with pytest.raises(KeyboardInterrupt):
            brokers.start_or_find("one", pretended, IMAGES)
        assert asked() == ["up"]
    assert asked() == ["up", "down"]


def test_a_command_shares_its_brokers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(brokers.VARIABLE)
    monkeypatch.setenv("HBSHIM_BUILD_DIR", str(tmp_path))
    commands = f"test -d ${brokers.VARIABLE} || exit 4; exit 3"
    assert brokers.main(["sh", "-c", commands]) == 3
    assert list((tmp_path / "brokers").iterdir()) == []
