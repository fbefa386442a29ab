"""Starts and stops a Docker daemon where no init system does: detached, its data under build/.

It listens on Docker's usual socket, so that a second checkout, and the user's own `docker`, find
the same engine instead of starting another one that would fight with it over bridge and iptables.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wsgi_harness.engine.commands import Progress, run
from wsgi_harness.errors import CommandError, EngineUnavailableError
from wsgi_harness.paths import build_dir

SOCKET = Path("/var/run/docker.sock")
_CONTAINERD_PID = Path("/var/run/docker/containerd/containerd.pid")
_NAMESPACES = Path("/run/docker/netns")
_SYSTEM_CONFIG = Path("/etc/docker/daemon.json")
_START_LIMIT = 60.0
_EXEC_TIME = 3.0  # until the launched shell has become dockerd, generously


def find() -> Path | None:
    """Return the daemon's program; it lies in sbin, which need not be on PATH."""
    found = shutil.which("dockerd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    return Path(found) if found else None


def processes(name: str = "dockerd") -> list[int]:
    """Return the pids of the running processes of a program, by the kernel's name for them."""
    pids = []
    for entry in Path("/proc").glob("[0-9]*"):
        # A process may end while it is inspected.
        with contextlib.suppress(OSError):
            status = (entry / "status").read_text()
            if (entry / "comm").read_text().strip() == name and "State:\tZ" not in status:
                pids.append(int(entry.name))
    return pids


def start(program: Path, *, progress: Progress) -> None:
    """Start the daemon and wait until it answers.

    Raises:
        EngineUnavailableError: it did not come up in time; the message has its last lines.
    """
    if Path("/run/systemd/system").is_dir():
        progress("starting the Docker engine: systemctl start docker")
        run(["systemctl", "start", "docker"], timeout=_START_LIMIT)
        return
    with _one_at_a_time(program):
        if processes():
            # Started a moment ago, by a package's script or by another checkout.
            progress("a Docker engine is running, waiting for it to answer")
            _wait_until_it_answers(None)
            return
        # Without a userland proxy 127.0.0.1 reaches a published port through the kernel alone;
        # with it each port costs two processes, and a broker that went silent would appear alive.
        for extra in ({"userland-proxy": False}, {}):
            progress(f"starting the Docker engine, data in {build_dir() / 'docker'}")
            log = _launch(program, extra)
            try:
                _wait_until_it_answers(log)
            except EngineUnavailableError:
                if processes() or not extra:
                    raise
            else:
                return


def stop(*, progress: Progress) -> None:
    """Stop the daemon that this checkout started, if it runs; its containers end with it."""
    for pid in _ours():
        progress(f"stopping the Docker engine of this checkout (pid {pid})")
        _end(pid)


def retire_orphan(data_root: Path, *, progress: Progress) -> bool:
    """Stop a daemon whose checkout, and thereby its data, was deleted under it.

    It still answers, but can no longer build or run anything.

    Parameters:
        data_root: the data directory that the answering daemon reports.

    Returns:
        whether one was stopped; never one that a harness did not start.
    """
    if data_root.exists() or os.geteuid() != 0:
        return False
    config = _config_path(data_root.parent)
    orphans = [
        pid
        for pid in processes()
        if str(config) in _arguments(pid) and not exists_for(pid, data_root)
    ]
    for pid in orphans:
        progress(f"stopping the Docker engine of a deleted checkout (pid {pid}, {data_root})")
        _end(pid)
    return bool(orphans)


def exists_for(pid: int, path: Path) -> bool:
    """Whether a process sees this path; we may live in another root or mount namespace."""
    return (Path(f"/proc/{pid}/root") / path.relative_to("/")).exists()


def _launch(program: Path, extra: dict[str, Any]) -> Path:
    home = build_dir()
    config, log = _config_path(home), home / "engine" / "dockerd.log"
    config.parent.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {
        "data-root": str(home / "docker"),
        "pidfile": str(config.with_name("dockerd.pid")),
        "hosts": [f"unix://{SOCKET}"],
        "mtu": _mtu(),
        **extra,
    }
    if _SYSTEM_CONFIG.is_file():
        # The administrator's proxies, mirrors and places win.
        settings |= json.loads(_SYSTEM_CONFIG.read_text())
    config.write_text(json.dumps(settings, indent=2))
    remove_if_stale(Path(settings["pidfile"]), "dockerd")
    remove_if_stale(_CONTAINERD_PID, "containerd")
    if not processes("containerd-shim"):
        end_namespaces(_NAMESPACES)
    # In a mount namespace of its own its mounts under build/ are invisible, so that a plain
    # `rm -rf` of the checkout is not "busy".
    isolated = ["unshare", "--mount", "--propagation", "slave", "--"]
    detach([*isolated, program, "--config-file", config], log=log)
    return log


def detach(argv: Sequence[str | Path], *, log: Path) -> None:
    """Start a daemon that outlives this process, and a Ctrl-C in its terminal."""
    log.parent.mkdir(parents=True, exist_ok=True)
    command = 'log="$0"; exec setsid --fork "$@" </dev/null >"$log" 2>&1'
    run(["sh", "-c", command, log, *argv], timeout=10)


def _wait_until_it_answers(log: Path | None) -> None:
    began = time.monotonic()
    waited = 0.0
    while waited < _START_LIMIT and (waited < _EXEC_TIME or processes()):
        if answers():
            return
        time.sleep(0.2)
        waited = time.monotonic() - began
    if log is None:
        raise EngineUnavailableError(
            f"a dockerd runs (pid {processes()}) but does not answer on {SOCKET}; "
            "set DOCKER_HOST to where it listens, or stop it"
        )
    output = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise EngineUnavailableError(f"the Docker engine did not start; {log} ends with:\n{output}")


def answers(path: Path = SOCKET) -> bool:
    """Whether an engine answers a ping on its Unix socket; asked without any client program."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as link:
        link.settimeout(5)
        link.connect(str(path))
        link.sendall(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n")
        return b" 200 " in link.recv(64)
    return False


def _ours() -> list[int]:
    config = str(_config_path(build_dir()))
    return [pid for pid in processes() if config in _arguments(pid)]


def _config_path(home: Path) -> Path:
    return home / "engine" / "daemon.json"


def _arguments(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return []


def remove_if_stale(pid_file: Path, program: str) -> None:
    """Remove a pid file whose number is no process of that program, or not any longer.

    The daemon would check only whether the number is in use: it would refuse to start, or wait
    for a containerd that is something else.
    """
    with contextlib.suppress(FileNotFoundError):
        named = pid_file.read_text().strip()
        if named not in map(str, processes(program)):
            pid_file.unlink()


def end_namespaces(directory: Path) -> None:
    """End the network namespaces that a killed daemon left behind; to be called where none runs.

    Their interfaces are still on the default bridge and answer for addresses that the next
    daemon hands out anew: its containers would be refused connections that never reached them.
    """
    for namespace in directory.glob("*"):
        with contextlib.suppress(CommandError, OSError):
            run(["umount", namespace], timeout=10)
            namespace.unlink()


def _end(pid: int) -> None:
    for sign, grace in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sign)
        limit = time.monotonic() + grace
        while pid in processes() and time.monotonic() < limit:
            time.sleep(0.1)


def _mtu() -> int:
    """Return the MTU of the default route: a larger one on the bridge loses packets on the way."""
    with contextlib.suppress(CommandError, OSError, ValueError, IndexError):
        words = run(["ip", "-o", "route", "show", "default"], timeout=5).split()
        device = words[words.index("dev") + 1]
        return int(Path(f"/sys/class/net/{device}/mtu").read_text())
    return 1500


@contextlib.contextmanager
def _one_at_a_time(program: Path) -> Iterator[None]:
    """Hold the machine's only lock on starting: the program itself, so that no file is left."""
    handle = os.open(program, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
