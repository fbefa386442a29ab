"""The stack on a real engine: what it offers while up, and that nothing is left of it."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from tests.waiting import wait_until
from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import Images
from wsgi_harness.errors import CommandError, StackError
from wsgi_harness.paths import build_dir
from wsgi_harness.stack import leftovers
from wsgi_harness.stack.services import CODE, CellService
from wsgi_harness.stack.stack import BROKER, Stack, project_name

ROOT = Path(__file__).parents[3]
PROGRAM = "tests.wsgi_harness.stack.stack_in_a_process"
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


def test_cells_find_hbshims_drivers_by_their_entry_points(stack: Stack) -> None:
    group = "oslo.messaging.drivers"
    code = f"from importlib.metadata import *; print(*entry_points(group='{group}').names)"

    printed = stack.exec("web", ["env", f"PYTHONPATH={CODE}", "/opt/venv/bin/python", "-c", code])

    assert {"hbrabbit", "hbkombu", "hbpika", "rabbit"} <= set(printed.split())


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
    with pytest.raises(StackError, match="cannot name a service"):
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


def test_another_rabbitmq_image_needs_what_the_error_says(engine: Engine, images: Images) -> None:
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
        [sys.executable, "-m", PROGRAM, project], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("sign", "when"),
    [
        (signal.SIGINT, "up"),
        pytest.param(signal.SIGTERM, "up", marks=pytest.mark.extended),
        (signal.SIGHUP, "starting"),
        pytest.param(signal.SIGINT, "starting", marks=pytest.mark.extended),
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
        rest, _ = process.communicate(timeout=120)
        status = process.returncode
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


def without_network_removal(engine: Engine, directory: Path, complaint: str) -> Engine:
    """An engine whose Compose removes everything but the network, and ends with a complaint.

    In front of the real one, as what Docker 20.10 does now and then cannot be provoked.
    """
    script = directory / "compose"
    script.write_text(
        "#!/bin/bash\n"
        'case " $* " in *" down "*)\n'
        f"  {shlex.join(engine.client)} rm --force --volumes $("
        f"{shlex.join(engine.client)} ps --all --quiet "
        '--filter "label=com.docker.compose.project=$2") >/dev/null\n'
        f"  echo {shlex.quote(complaint)} >&2; exit 1\n"
        "esac\n"
        f'exec {shlex.join(engine.compose)} "$@"\n'
    )
    script.chmod(0o755)
    return replace(engine, compose=(str(script),))


@pytest.mark.extended
def test_a_network_that_the_engine_keeps_is_reported_once_and_no_error(
    engine: Engine, images: Images, tmp_path: Path
) -> None:
    project, lines = project_name("network"), list[str]()
    broken = without_network_removal(engine, tmp_path, f"network {project} has active endpoints")
    try:
        with Stack(project, prepared=(broken, images), progress=lines.append):
            pass
        assert remains(engine, project).count("\n") == 1
        assert [line for line in lines if f"keeps the network of {project}" in line] == lines[-1:]
        assert not (build_dir() / "stacks" / project).exists()
    finally:
        engine.run("network", "rm", f"{project}_default")


@pytest.mark.extended
def test_any_other_failure_to_remove_is_an_error(
    engine: Engine, images: Images, tmp_path: Path
) -> None:
    project = project_name("network")
    broken = without_network_removal(engine, tmp_path, "no space left on device")
    try:
        with (
            pytest.raises(CommandError, match="no space left"),
            Stack(project, prepared=(broken, images)),
        ):
            pass
    finally:
        engine.run("network", "rm", f"{project}_default")


@pytest.mark.extended
def test_a_network_that_outlived_its_run_is_removed_once_the_engine_lets_it_go(
    engine: Engine, images: Images
) -> None:
    project = project_name("network")
    network = f"{project}_default"
    with running(project) as process:
        assert process.stdout is not None
        assert "up\n" in process.stdout
        argv = ("run", "--detach", "--network", network, "--entrypoint", "sleep", images.apache)
        guest = engine.run(*argv, "600").strip()
        try:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=120)
            lines: list[str] = []
            leftovers.remove(engine, progress=lines.append)
            assert network in engine.run("network", "ls", "--format", "{{.Name}}").splitlines()
            assert [line for line in lines if project in line] == []
        finally:
            engine.run("rm", "--force", guest)
    leftovers.remove(engine, progress=lines.append)
    assert remains(engine, project) == ""
    assert [line for line in lines if network in line]


def test_owner_is_this_process_and_no_other_one() -> None:
    assert leftovers.owner() == leftovers.owner()
    assert f"/{os.getpid()}/" in leftovers.owner()
