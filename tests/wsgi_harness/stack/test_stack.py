"""The stack on a real engine: what it offers while up, and that nothing is left of it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.waiting import wait_until
from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import Images
from wsgi_harness.errors import CommandError, StackError
from wsgi_harness.paths import build_dir
from wsgi_harness.stack import leftovers
from wsgi_harness.stack.services import CellService
from wsgi_harness.stack.stack import BROKER, Stack, project_name

PROGRAM = Path(__file__).with_name("stack_in_a_process.py")
CONNECT = "import os, kombu; kombu.Connection(os.environ['AMQP_URL']).connect(); print('in')"
WORDS = "two words, a $ and ${BRACES}"


@pytest.fixture(scope="module")
def stack(engine: Engine, images: Images) -> Iterator[Stack]:
    """A broker, one httpd, and one container that runs something else."""
    cells = [
        CellService("web", {"WORDS": WORDS}),
        CellService("aside", entrypoint=("sleep", "3600")),
    ]
    with Stack(project_name("stack"), cells, heartbeat=7, prepared=(engine, images)) as running:
        yield running


def remains(engine: Engine, project: str) -> str:
    """Containers, networks and volumes of a project."""
    wanted = f"--filter=label=com.docker.compose.project={project}"
    kinds = (["ps", "--all"], ["network", "ls"], ["volume", "ls"])
    return "".join(engine.run(*kind, "--quiet", wanted) for kind in kinds)


def test_cells_answer_and_reach_the_broker_by_the_given_url(stack: Stack) -> None:
    assert requests.get(f"{stack.cell_url('web')}/-/alive", timeout=10).status_code == 204
    assert stack.exec("web", ["/opt/venv/bin/python", "-c", CONNECT]) == "in\n"


def test_environment_reaches_a_cell_unchanged(stack: Stack) -> None:
    assert stack.exec("web", ["printenv", "WORDS"]) == f"{WORDS}\n"


def test_broker_suggests_the_heartbeat_and_is_seen_through_its_api(stack: Stack) -> None:
    asked = stack.exec(BROKER, ["cat", "/etc/rabbitmq/conf.d/90-start.conf"])
    assert "heartbeat = 7\n" in asked
    assert stack.broker.management.overview()["rabbitmq_version"].startswith(("3.", "4."))
    assert "Server startup complete" in stack.broker.log()
    assert "BEGIN CERTIFICATE" in str(stack.broker.ca_pem)


def test_password_is_shown_nowhere_and_lies_in_no_file(stack: Stack) -> None:
    password = stack.broker.password
    shown = repr((stack, stack.broker, stack.broker.management, CellService("x", {"P": password})))
    assert password not in shown
    files = [path for path in (build_dir() / "stacks").rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if password.encode() in path.read_bytes()] == []
    with pytest.raises(CommandError) as failed:
        stack.exec("web", ["false"])
    assert password not in str(failed.value)


def test_a_paused_broker_is_silent_until_it_goes_on(stack: Stack) -> None:
    url, login = f"{stack.broker.management_url}/api/overview", ("x", "y")
    stack.pause(BROKER)
    try:
        with pytest.raises(requests.Timeout):
            requests.get(url, auth=login, timeout=1)
    finally:
        stack.unpause(BROKER)
    assert requests.get(url, auth=login, timeout=30).status_code == 401


def test_an_unknown_service_is_named_with_those_there_are(stack: Stack) -> None:
    with pytest.raises(StackError, match=r"no service 'wev'.* are aside, rabbitmq, web"):
        stack.cell_url("wev")


@pytest.mark.parametrize("names", [["Upper"], ["a b"], [""], ["rabbitmq"], ["twice", "twice"]])
def test_names_that_cannot_be_used_are_refused_at_once(names: list[str]) -> None:
    with pytest.raises(StackError, match="cannot name a cell"):
        Stack("hbshim-names", [CellService(name) for name in names])


def test_nothing_can_be_asked_of_a_stack_that_is_not_up() -> None:
    stack = Stack("hbshim-down")
    for ask in (lambda: stack.broker, lambda: stack.logs(BROKER), lambda: stack.cell_url("web")):
        with pytest.raises(StackError):
            ask()
    stack.down()


def test_a_cell_that_ends_is_an_error_with_its_last_words(engine: Engine, images: Images) -> None:
    project = project_name("stack")
    cells = [CellService("odd", {"MPM": "worker"})]
    with (
        pytest.raises(StackError, match=r"odd ended with status 64.*\n.*not 'worker'"),
        Stack(project, cells, prepared=(engine, images)),
    ):
        pass
    assert remains(engine, project) == ""
    assert not (build_dir() / "stacks" / project).exists()


def test_another_rabbitmq_image_is_told_what_it_needs(engine: Engine, images: Images) -> None:
    # Ours under another name: it reads the same variables and the same conf.d as the official one.
    engine.run("tag", images.rabbitmq, "hbshim-test-foreign:latest")
    try:
        foreign = Images("hbshim-test-foreign:latest", images.apache, own_rabbitmq=False)
        with Stack(project_name("stack"), heartbeat=9, prepared=(engine, foreign)) as stack:
            assert (stack.broker.tls_port, stack.broker.ca_pem) == (None, None)
            config = stack.exec(BROKER, ["cat", "/etc/rabbitmq/conf.d/95-hbshim.conf"])
            assert "heartbeat = 9\n" in config
    finally:
        engine.run("rmi", "hbshim-test-foreign:latest")


@contextmanager
def running(project: str) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that holds a stack."""
    with subprocess.Popen(
        [sys.executable, PROGRAM, project], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("sign", "when"),
    [
        (signal.SIGINT, "up"),
        (signal.SIGTERM, "up"),
        (signal.SIGHUP, "starting"),
        (signal.SIGINT, "starting"),
    ],
)
def test_a_signal_leaves_nothing_behind(
    engine: Engine, images: Images, sign: signal.Signals, when: str
) -> None:
    project = project_name("signal")
    with running(project) as process:
        assert process.stdout is not None
        if when == "up":
            assert "up\n" in process.stdout
        else:
            wait_until(lambda: remains(engine, project), timeout=60)
        process.send_signal(sign)
        rest = process.stdout.read()
        status = process.wait(timeout=120)
    assert "removing the containers" in rest
    assert status in {128 + sign, -sign, 1}
    assert remains(engine, project) == ""
    assert not (build_dir() / "stacks" / project).exists()


def test_what_sigkill_leaves_is_removed_by_the_next_run(engine: Engine, images: Images) -> None:
    killed, alive = project_name("killed"), project_name("alive")
    with running(killed) as process, running(alive) as other:
        for holder in (process, other):
            assert holder.stdout is not None
            assert "up\n" in holder.stdout
        process.kill()
        process.wait()
        assert remains(engine, killed) != ""
        lines: list[str] = []
        leftovers.remove(engine, progress=lines.append)
        assert remains(engine, killed) == ""
        assert [line for line in lines if killed in line]
        # that of a process that lives is left alone
        assert remains(engine, alive) != ""
        other.send_signal(signal.SIGTERM)
        other.communicate(timeout=120)
    assert remains(engine, alive) == ""


def test_owner_is_this_process_and_no_other_one() -> None:
    assert leftovers.owner() == leftovers.owner()
    assert f"/{os.getpid()}/" in leftovers.owner()
