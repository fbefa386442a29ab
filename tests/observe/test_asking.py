"""Every way to ask a process to be watchable, and the ways in which that fails."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hbshim.errors import WatchError
from hbshim.observe import listen, stop_listening
from hbshim.observe.client import ask
from hbshim.observe.listening import offer
from tests.concurrency import MODEL
from tests.interrupts import interrupt_everywhere
from tests.observe.conftest import CHECKOUT, PATCHES_OF_MODEL


@pytest.fixture(autouse=True)
def _silent_again() -> Iterator[None]:
    yield
    stop_listening()


def run(code: str, **environment: str) -> str:
    kept = {key: value for key, value in os.environ.items() if "HBSHIM" not in key}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=180,
        env={**kept, "PYTHONPATH": str(CHECKOUT), **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_listens_unless_asked_to(tmp_path: Path) -> None:
    run("import hbshim; hbshim.install()", TMPDIR=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_the_environment_asks(tmp_path: Path) -> None:
    code = "import hbshim, os; hbshim.install(); print(os.listdir(os.environ['D']), os.getpid())"
    names, pid = run(code, D=str(tmp_path), HBSHIM_WATCH_SOCKET=str(tmp_path / "of-{pid}")).split(
        "] "
    )
    assert f"of-{pid.strip()}" in names
    assert list(tmp_path.iterdir()) == []  # gone with the process


def test_auto_is_found_by_process_id_and_without_a_name(
    tmp_path: Path, hbshim: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    code = """
import hbshim, os, subprocess, sys
hbshim.install(watch_socket="auto")
for target in ([str(os.getpid())], []):
    command = [sys.executable, "-m", "hbshim", "watch", "--json", *target]
    print(subprocess.run(command, capture_output=True, text=True).stdout, end="")
print(os.getpid())
"""
    *answers, pid = run(code, TMPDIR=str(tmp_path)).splitlines()
    assert [json.loads(answer)["pid"] for answer in answers] == [int(pid)] * 2
    (directory,) = tmp_path.iterdir()
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_somebody_else_might_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / f"hbshim-{os.geteuid()}").mkdir(mode=0o755)
    with pytest.raises(WatchError, match="not a directory of this user's alone"):
        listen()


def test_a_stale_file_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    left = socket.socket(socket.AF_UNIX)
    left.bind(path)
    left.listen()
    left.close()
    assert listen(path) == path
    assert ask(path).pid == os.getpid()


def test_a_live_socket_is_never_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(path)
        live.listen()
        before = os.stat(path).st_ino
        with pytest.raises(WatchError, match=r"write \{pid\} into the path"):
            listen(path)
        assert os.stat(path).st_ino == before


def test_a_live_socket_with_a_full_backlog_is_never_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as live, socket.socket(socket.AF_UNIX) as waiting:
        live.bind(path)
        live.listen(0)
        waiting.connect(path)
        with pytest.raises(WatchError, match=r"write \{pid\} into the path"):
            listen(path)


@pytest.mark.parametrize("kind", ["file", "link", "directory"])
def test_what_is_no_socket_is_never_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s"
    make: dict[str, Callable[[], object]] = {
        "file": lambda: path.write_text("precious"),
        "link": lambda: path.symlink_to(tmp_path / "elsewhere"),
        "directory": path.mkdir,
    }
    make[kind]()
    with pytest.raises(WatchError, match="is there already"):
        listen(str(path))
    assert os.path.lexists(path)


@pytest.mark.parametrize("name", ["no/such/directory/s", "x" * 120])
def test_a_path_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(WatchError, match="name a short path in a directory"):
        listen(str(tmp_path / name))


@pytest.mark.parametrize(
    ("argv", "program"),
    [
        (["/usr/bin/gunicorn", "--password=hush"], "gunicorn"),
        (["/usr/lib/celery/__main__.py", "worker"], "celery"),
        (["-c"], Path(sys.executable).name),
        ([], Path(sys.executable).name),
    ],
)
def test_the_program_is_named_and_its_arguments_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], program: str
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    path = listen(str(tmp_path / "s"))
    seen = ask(path)
    assert seen.program == program
    assert "hush" not in json.dumps(seen.document)


def test_what_was_refused_before_the_first_connection_is_told_of_after_it(tmp_path: Path) -> None:
    code = """
import hbshim, warnings
warnings.simplefilter("ignore")
hbshim.install()
print(hbshim.take_events())
from hbshim.adapters.attach import not_negotiated
not_negotiated("first", hbshim.Options.load())
not_negotiated("second", hbshim.Options.load())
kinds = [event.kind for event in hbshim.take_events()]
print([kind for kind in kinds if kind != "not-negotiated"])
"""
    printed = run(code, HBSHIM_WATCH_SOCKET=str(tmp_path / "none" / "s"))
    assert printed.splitlines() == ["[]", "['watch-refused']"]


def test_a_process_may_be_watched_before_eventlet_patches_it(tmp_path: Path) -> None:
    """To be asked makes no heartbeats: monkey_patch() makes green every RLock that it finds."""
    code = f"""
import hbshim
hbshim.install(watch_socket={str(tmp_path / "s")!r})
from hbshim.observe.client import ask
from hbshim.observe.listening import offer
from tests.interrupts import interrupt_everywhere
assert ask({str(tmp_path / "s")!r}).links == ()
from hbshim.heartbeat import service
assert service.existing() is None
import eventlet
eventlet.monkey_patch()
assert ask({str(tmp_path / "s")!r}).links == ()
"""
    assert run(code, EVENTLET_TESTS="1") == ""


def test_a_refused_option_warns_once_and_costs_nothing_else(tmp_path: Path) -> None:
    import hbshim
    from hbshim import api
    from hbshim.observe.listening import WatchWarning

    try:
        with pytest.warns(WatchWarning, match="name a short path"):
            hbshim.install(watch_socket=str(tmp_path / "none" / "s"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert api.connection_options({}) is not None
    finally:
        hbshim.uninstall()


def test_the_socket_moves_and_goes(tmp_path: Path) -> None:
    first, second = str(tmp_path / "1"), str(tmp_path / "2")
    listen(first)
    assert listen(first) == first
    listen(second)
    assert not os.path.lexists(first)
    assert ask(second).pid == os.getpid()
    stop_listening()
    assert not os.path.lexists(second)


@pytest.mark.parametrize("model", PATCHES_OF_MODEL)
def test_a_hub_is_not_needed_for_listening_twice(tmp_path: Path, model: str) -> None:
    """gevent's `os.close`, for one, waits for it, once there is a hub."""
    code = f"""
{PATCHES_OF_MODEL[model]}
import time
from hbshim.observe import listen
time.sleep(0.01)
listen({str(tmp_path / "1")!r})
print(listen({str(tmp_path / "2")!r}))
"""
    assert run(code, EVENTLET_TESTS="1") == f"{tmp_path / '2'}\n"


@pytest.mark.parametrize("left", [False, True], ids=["nothing there", "a stale file there"])
def test_of_many_processes_that_ask_at_once_one_listens(tmp_path: Path, left: bool) -> None:
    path = str(tmp_path / "s")
    if left:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(path)
    code = """
import os, sys
from hbshim.errors import WatchError
from hbshim.observe import listen
print("ready", flush=True)
sys.stdin.readline()
try:
    listen(sys.argv[1])
    print(os.getpid(), flush=True)
except WatchError:
    print("refused", flush=True)
sys.stdin.readline()
"""
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", code, path],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
                )
            )
            for _ in range(6)
        ]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.stdout.readline().strip() for process in processes]
        assert said.count("refused") == 5
        assert str(ask(path).pid) in said
    assert not os.path.lexists(path)


@pytest.mark.skipif(MODEL != "native", reason="a signal handler of Python's own")
# A socket whose creation was interrupted is closed when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_exception_at_any_instant_keeps_the_socket_from_being_opened(tmp_path: Path) -> None:
    path = str(tmp_path / "watched.sock")

    def opened() -> None:
        thread = threading.Thread(target=offer, args=(path,))
        thread.start()
        thread.join(30)
        try:
            assert ask(path).pid == os.getpid()
        finally:
            stop_listening()

    assert interrupt_everywhere(lambda: offer(path), opened)
