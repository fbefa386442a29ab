"""A forked child never serves its parent's socket, nor takes it away; it may open its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hbshim.errors import WatchError
from hbshim.observe.client import ProcessGone, ask
from tests.observe.conftest import CHECKOUT, PATCHES_OF_MODEL
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker

#: How the child comes to be; the second as hosts written in C do it, without Python's hooks.
WAYS = {
    "os.fork": "os.fork()",
    "fork in C": "__import__('tests.native_fork').native_fork.fork_in_c()",
}

PROGRAM = """
{patch}
import json, os, sys
from hbshim.observe import listen
from hbshim.observe.client import ask

directory = sys.argv[1]
parents = listen(directory + "/{{pid}}.sock")

child = {fork}
if child == 0:
    own = listen(directory + "/{{pid}}.sock")
    seen = {{
        "own": ask(own).pid == os.getpid() and own != parents,
        "parents_file": os.path.exists(parents),
        "parent_answers": ask(parents).pid == os.getppid(),
    }}
    with open(directory + "/seen", "w") as file:
        json.dump(seen, file)
    sys.exit(0)  # and with it, everything that is done at exit

_, status = os.waitpid(child, 0)
print(json.dumps({{
    "status": status,
    "parents_file": os.path.exists(parents),
    "parent_answers": ask(parents).pid == os.getpid(),
    "left": sorted(os.listdir(directory)),
}}))
"""


@pytest.mark.parametrize("model", ["native", "eventlet", "gevent"])
@pytest.mark.parametrize("way", WAYS)
def test_parent_and_child_each_have_their_own(tmp_path: Path, model: str, way: str) -> None:
    program = PROGRAM.format(patch=PATCHES_OF_MODEL[model], fork=WAYS[way])
    done = subprocess.run(
        # Python warns of forks in a process with threads; they are the point.
        [sys.executable, "-W", "ignore", "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "EVENTLET_TESTS": "1"},
    )
    assert done.returncode == 0, done.stderr
    after = json.loads(done.stdout)
    assert after["status"] == 0, done.stderr
    assert json.loads((tmp_path / "seen").read_text()) == {
        "own": True,
        "parents_file": True,
        "parent_answers": True,
    }
    assert after["parents_file"]
    assert after["parent_answers"]
    # The child's file went with the child.
    assert len([name for name in after["left"] if name.endswith(".sock")]) == 1


def test_a_child_does_not_keep_its_dead_parents_socket_open(
    watched: Callable[..., tuple[subprocess.Popen[str], str]],
) -> None:
    process, path = watched()
    process.stdin.write("import os, time; os.fork() or time.sleep(60)\n")
    process.stdin.flush()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_until(children.read_text)
    child = int(children.read_text())
    try:
        assert ask(path).pid == process.pid
        process.kill()
        process.wait(60)

        def is_gone() -> bool:
            try:
                ask(path)
            except ProcessGone:
                return True
            except WatchError:
                return False  # reset: the child let go of the socket this very moment
            return False

        wait_until(is_gone)
    finally:
        os.kill(child, signal.SIGKILL)


def test_each_worker_of_a_prefork_server_can_be_watched(tmp_path: Path, broker: Broker) -> None:
    """Also where the application, and hbshim with it, was loaded before the fork."""
    (tmp_path / "config.py").write_text(
        "import os, pika\n"
        "def post_worker_init(worker):\n"
        "    url = pika.URLParameters(os.environ['URL'])\n"
        "    worker.app.connection = pika.BlockingConnection(url)\n"
    )
    (tmp_path / "app.py").write_text("import hbshim\nhbshim.install()\napp = lambda *_: []\n")
    options = ["--preload", "--workers", "2", "--bind", f"unix:{tmp_path}/http"]
    gunicorn = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", *options, "--config", "config.py", "app:app"],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        env={
            **os.environ,
            "PYTHONPATH": f"{CHECKOUT}{os.pathsep}{tmp_path}",
            "HBSHIM_WATCH_SOCKET": f"{tmp_path}/{{pid}}.sock",
            "URL": broker.amqp_url(heartbeat=10),
        },
    )
    try:

        def links() -> tuple[int | None, list[int]] | None:
            """Count the links of the arbiter, and of each worker that answers."""
            sockets = [tmp_path / name for name in os.listdir(tmp_path) if name.endswith(".sock")]
            try:
                found = {seen.pid: len(seen.links) for seen in map(ask, map(str, sockets))}
            except WatchError:
                return None  # it is just being opened
            return found.pop(gunicorn.pid, None), list(found.values())

        # A worker's socket is there a moment before its connection.
        wait_until(lambda: links() == (0, [1, 1]), 120)
    finally:
        gunicorn.terminate()
        gunicorn.wait(30)
    wait_until(lambda: not [name for name in os.listdir(tmp_path) if name.endswith(".sock")], 30)
