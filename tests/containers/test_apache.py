"""Apache's image, running: both MPMs, mod_wsgi embedded and as a daemon, and what it refuses."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import Images
from wsgi_harness.errors import CommandError, NotReadyError
from wsgi_harness.stack.broker import wait_until

SCRIPT = """\
import json
import os

def application(environ, start_response):
    answer = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "group": environ["mod_wsgi.process_group"],
        "interpreter": environ["mod_wsgi.application_group"],
        "threads": environ["wsgi.multithread"],
        "handed_in": os.environ.get("CELL_WORDS"),
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A directory to be mounted, with a WSGI script that Apache's user may read."""
    script = tmp_path / "wsgi_harness" / "cell" / "app.py"
    script.parent.mkdir(parents=True)
    script.write_text(SCRIPT)
    tmp_path.chmod(0o755)
    return tmp_path


@contextmanager
def apache(engine: Engine, images: Images, code: Path, **environment: str) -> Iterator[str]:
    """Run the image and give its container's id, once it serves."""
    variables = [f"--env={key}={value}" for key, value in environment.items()]
    options = ["--detach", "--publish", "127.0.0.1::80", "--volume", f"{code}:/srv/hbshim:ro,z"]
    container = engine.run("run", *options, *variables, images.apache).strip()
    try:
        wait_until(lambda: check_alive(engine, container), limit=60)
        yield container
    finally:
        engine.run("rm", "--force", "--volumes", container)


def url(engine: Engine, container: str) -> str:
    return f"http://{engine.run('port', container, '80').splitlines()[0]}"


def check_alive(engine: Engine, container: str) -> None:
    try:
        status = requests.get(f"{url(engine, container)}/-/alive", timeout=10).status_code
    except requests.RequestException as error:
        raise NotReadyError(str(error)) from error
    assert status == 204


@pytest.mark.parametrize("mpm", ["prefork", "event"])
@pytest.mark.parametrize("mode", ["embedded", "daemon"])
def test_serves_from_one_process_that_sees_the_environment(
    engine: Engine, images: Images, code: Path, mpm: str, mode: str
) -> None:
    words = "two words and a $"
    with apache(engine, images, code, MPM=mpm, WSGI_MODE=mode, CELL_WORDS=words) as container:
        answers = [requests.get(url(engine, container), timeout=30).json() for _ in range(3)]
        assert {answer["pid"] for answer in answers} == {answers[0]["pid"]}
        assert {answer["handed_in"] for answer in answers} == {words}
        assert answers[0]["group"] == ("app" if mode == "daemon" else "")
        loaded = engine.run("exec", container, "cat", f"/proc/{answers[0]['parent']}/maps")
        assert f"mod_mpm_{mpm}.so" in loaded
        # exit status 0, or this raises
        engine.run("exec", container, "healthcheck.sh")


@pytest.mark.parametrize("mode", ["embedded", "daemon"])
def test_a_sub_interpreter_where_one_is_wanted(
    engine: Engine, images: Images, code: Path, mode: str
) -> None:
    for wanted, name in (("main", ""), ("sub", "cell")):
        with apache(engine, images, code, WSGI_MODE=mode, WSGI_INTERPRETER=wanted) as container:
            answer = requests.get(url(engine, container), timeout=30).json()
            assert answer["interpreter"] == name


def test_event_mpm_answers_in_several_threads(engine: Engine, images: Images, code: Path) -> None:
    with apache(engine, images, code, MPM="event", WSGI_THREADS="4") as container:
        assert requests.get(url(engine, container), timeout=30).json()["threads"] is True


def test_code_is_mounted_read_only(engine: Engine, images: Images, code: Path) -> None:
    with (
        apache(engine, images, code) as container,
        pytest.raises(CommandError, match="Read-only file system"),
    ):
        engine.run("exec", container, "touch", "/srv/hbshim/written")


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("MPM=worker", "MPM must be prefork or event, not 'worker'"),
        ("WSGI_MODE=both", "WSGI_MODE must be embedded or daemon, not 'both'"),
        ("WSGI_INTERPRETER=both", "WSGI_INTERPRETER must be main or sub, not 'both'"),
        ("WSGI_PROCESSES=0", "WSGI_PROCESSES must be 1 or more"),
        ("WSGI_THREADS=few", "WSGI_THREADS must be 1 or more"),
        ("WSGI_SCRIPT=/nowhere.py", "no WSGI script at /nowhere.py"),
    ],
)
def test_refuses_what_it_cannot_serve(
    engine: Engine, images: Images, variable: str, message: str
) -> None:
    with pytest.raises(CommandError, match=message):
        engine.run("run", "--rm", "--env", variable, images.apache)


def test_libraries_are_the_supported_ones(engine: Engine, images: Images) -> None:
    argv = ["run", "--rm", "--entrypoint", "/opt/venv/bin/pip", images.apache]
    listed = json.loads(engine.run(*argv, "list", "--format", "json"))
    versions = {
        package["name"].lower().replace("_", "-"): tuple(map(int, package["version"].split(".")))
        for package in listed
        if package["version"].replace(".", "").isdigit()
    }
    assert versions["eventlet"] >= (0, 36)
    assert versions["kombu"] >= (5, 3)
    assert versions["amqp"] >= (5, 2)
    assert versions["pika"] >= (1, 3)
    assert versions["mod-wsgi"] >= (5, 0)
    assert "gevent" in versions
