"""What is read from the system before a daemon is started or stopped."""

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import wait_until
from wsgi_harness.engine import dockerd
from wsgi_harness.engine.commands import silent


@pytest.fixture
def bystander(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives, under the name `hbother`."""
    program = shutil.copy("/bin/sleep", tmp_path / "hbother")
    with subprocess.Popen([program, "3600"]) as process:
        # Popen returns when the descriptors are closed, just before the kernel sets the name.
        name = Path(f"/proc/{process.pid}/comm")
        wait_until(lambda: name.read_text() == "hbother\n")
        yield process
        process.kill()


def test_finds_processes_by_name_and_not_their_zombies(
    bystander: subprocess.Popen[bytes],
) -> None:
    assert dockerd.processes("hbother") == [bystander.pid]
    bystander.kill()
    os.waitid(os.P_PID, bystander.pid, os.WEXITED | os.WNOWAIT)
    assert dockerd.processes("hbother") == []


def test_a_pid_file_is_stale_when_its_number_belongs_to_another_program(
    bystander: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    pid_file = tmp_path / "containerd.pid"
    pid_file.write_text(str(bystander.pid))
    dockerd.remove_if_stale(pid_file, "hbother")
    assert pid_file.exists()
    dockerd.remove_if_stale(pid_file, "containerd")
    assert not pid_file.exists()


@pytest.mark.parametrize("content", ["", "no number", "4194305"])
def test_a_pid_file_is_stale_when_it_names_no_process(content: str, tmp_path: Path) -> None:
    pid_file = tmp_path / "dockerd.pid"
    pid_file.write_text(content)
    dockerd.remove_if_stale(pid_file, "dockerd")
    assert not pid_file.exists()
    dockerd.remove_if_stale(pid_file, "dockerd")  # nothing there: nothing to do


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces")
def test_network_namespaces_of_a_killed_daemon_are_ended(tmp_path: Path) -> None:
    left = tmp_path / "0123456789ab"
    left.touch()
    subprocess.run(["unshare", f"--net={left}", "true"], check=True)
    assert str(left) in Path("/proc/self/mountinfo").read_text()
    dockerd.end_namespaces(tmp_path)
    assert str(left) not in Path("/proc/self/mountinfo").read_text()
    assert not left.exists()


def test_an_engine_answers_only_where_a_ping_is_answered(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    assert not dockerd.answers(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert not dockerd.answers(path)
        listener.listen()
        assert reply(listener, path, b"HTTP/1.0 200 OK\r\n\r\nOK")
        assert not reply(listener, path, b"HTTP/1.0 500 broken\r\n\r\n")
        assert not reply(listener, path, b"")


def reply(listener: socket.socket, path: Path, answer: bytes) -> bool:
    """The result of `answers` for a server that sends this."""

    def serve() -> None:
        link, _ = listener.accept()
        with link:
            link.recv(1000)
            link.sendall(answer)

    server = threading.Thread(target=serve)
    server.start()
    try:
        return dockerd.answers(path)
    finally:
        server.join(10)


def test_leaves_alone_a_daemon_whose_data_is_there_or_that_is_not_ours(tmp_path: Path) -> None:
    before = dockerd.processes()
    assert not dockerd.retire_orphan(tmp_path, progress=silent)
    assert not dockerd.retire_orphan(tmp_path / "gone" / "docker", progress=silent)
    assert dockerd.processes() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes mount namespaces")
def test_a_daemons_data_is_searched_where_the_daemon_lives(tmp_path: Path) -> None:
    there = tmp_path / "there"
    script = f"mount -t tmpfs none {tmp_path} && touch {there} && echo mounted && exec sleep 3600"
    command = ["unshare", "--mount", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mounted\n"
        assert not there.exists()
        assert dockerd.exists_for(process.pid, there)
        assert not dockerd.exists_for(process.pid, tmp_path / "gone")
        process.kill()


def test_stop_ends_only_the_daemon_of_this_checkout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HBSHIM_BUILD_DIR", str(tmp_path))
    before = dockerd.processes()
    lines: list[str] = []
    dockerd.stop(progress=lines.append)
    assert (dockerd.processes(), lines) == (before, [])
