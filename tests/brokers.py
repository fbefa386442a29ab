"""The brokers of a test run: one of each version, for all processes of the run.

The outermost process holds them: pytest, the controller of pytest-xdist, or
``python -m tests.brokers COMMAND ...``. It makes a directory and names it in the environment. A
process that needs a broker starts it, under a lock, or finds in the directory what another one has
started. The outermost process removes the containers when it ends. They carry its identity, so
that the next run removes what is left of a run that was killed. A worker that dies takes no broker
with it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wsgi_harness.engine.commands import run, silent
from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import Images
from wsgi_harness.paths import CONTAINERS, build_dir
from wsgi_harness.stack import leftovers, services
from wsgi_harness.stack.broker import Broker, wait_until
from wsgi_harness.stack.signals import undisturbed
from wsgi_harness.stack.stack import CA_FILE, project_name, read_logs

#: Names the directory for the processes of the run.
VARIABLE = "HBSHIM_TEST_BROKERS"
HEARTBEAT = 4
PASSWORD = "only-for-tests"

_HOST = "127.0.0.1"
_COMMAND_LIMIT = 90.0
_READY_LIMIT = 90.0
_UP_LIMIT = 180.0


@dataclass(frozen=True)
class SharedBroker:
    """A broker that other processes of the run use, too.

    Attributes:
        engine: what runs it.
        project: the Compose project of its container.
        broker: where it listens.
    """

    engine: Engine
    project: str
    broker: Broker

    @property
    def network(self) -> str:
        """The container network in which it has the host name `services.BROKER`."""
        return f"{self.project}_default"

    def rabbitmqctl(self, *arguments: str) -> None:
        """Run the broker's own command-line tool in its container."""
        # The cookie that lets the tool in lies in this directory.
        home = "--env=HOME=/var/lib/rabbitmq"
        argv = ["exec", home, _container(self.project), "rabbitmqctl", *arguments]
        self.engine.run(*argv, timeout=_COMMAND_LIMIT)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Remove at the end what this process and its children start with :func:`start_or_find`.

    Inside of a run that holds its brokers already, that run removes them.
    """
    if VARIABLE in os.environ:
        yield
        return
    directory = build_dir() / "brokers" / project_name("test")
    directory.mkdir(parents=True)
    (directory / "owner").write_text(leftovers.owner())
    os.environ[VARIABLE] = str(directory)
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        with undisturbed():
            _remove(directory)


def start_or_find(purpose: str, engine: Engine, images: Images) -> SharedBroker:
    """Return a broker that accepts connections.

    Parameters:
        purpose: a word; every process of the run that gives the same one gets the same broker.
        images: the broker's image is taken when no process has started it yet.
    """
    directory = Path(os.environ[VARIABLE])
    project = f"{directory.name}-{purpose}"
    described = directory / f"{purpose}.json"
    (directory / "engine").write_text(json.dumps(dataclasses.asdict(engine)))
    with (directory / f"{purpose}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not described.exists():
            _start(project, engine, images, (directory / "owner").read_text())
            # Written last: a process that dies before leaves the work to the next one.
            described.write_text(json.dumps(_ports(project, engine)))
    ports: dict[str, int] = json.loads(described.read_text())
    broker = Broker(
        host=_HOST,
        amqp_port=ports["5672"],
        tls_port=ports["5671"],
        management_url=f"http://{_HOST}:{ports['15672']}",
        user=services.USER,
        password=PASSWORD,
        read_log=lambda: read_logs(engine, project, services.BROKER),
        read_ca=lambda: engine.run("exec", _container(project), "cat", CA_FILE),
    )
    wait_until(broker.check_ready, _READY_LIMIT)
    return SharedBroker(engine, project, broker)


@contextlib.contextmanager
def in_turn(purpose: str) -> Iterator[None]:
    """Let one process of the run at a time use what is shared for this purpose."""
    with (Path(os.environ[VARIABLE]) / f"{purpose}.turn").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def virtual_host(broker: Broker, name: str) -> Iterator[str]:
    """A virtual host for as long as the context lasts."""
    broker.management.add_vhost(name)
    try:
        yield name
    finally:
        broker.management.delete_vhost(name)


def _container(project: str) -> str:
    return f"{project}-{services.BROKER}-1"


def _start(project: str, engine: Engine, images: Images, owner: str) -> None:
    leftovers.remove(engine, progress=silent)
    variables = services.environment(images, PASSWORD, HEARTBEAT) | {"HBSHIM_OWNER": owner}
    named: list[str | Path] = ["--project-name", project, "--file", CONTAINERS / "compose.yaml"]
    command = [*engine.compose, *named, "up", "--detach", "--no-build", services.BROKER]
    run(command, timeout=_UP_LIMIT, env={**engine.environment, **variables})


def _ports(project: str, engine: Engine) -> dict[str, int]:
    """Return this machine's ports by those of the container, from `5672/tcp -> 127.0.0.1:32768`."""
    ports = {}
    for line in engine.run("port", _container(project)).splitlines():
        inside, _, outside = line.partition(" -> ")
        ports[inside.partition("/")[0]] = int(outside.rpartition(":")[2])
    return ports


def _remove(directory: Path) -> None:
    # Also what was started by a process that died before it was up.
    for lock in directory.glob("*.lock"):
        engine = Engine(**json.loads((directory / "engine").read_text()))
        leftovers.take_down(engine, f"{directory.name}-{lock.stem}")
    shutil.rmtree(directory)


def main(argv: list[str]) -> int:
    """Run a command whose processes share the brokers that they start; return its exit code."""
    with held():
        return subprocess.run(argv).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
