"""Run a real host of Python applications, and talk to it over a Unix socket."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_until

CHECKOUT = Path(__file__).parent.parent.parent
START_LIMIT = 180.0

CURRENT_UWSGI = "2.0.31"
#: The last version in which --enable-threads decides anything.
THREADS_OPTIONAL_UWSGI = "2.0.26"
#: uWSGI closes a connection whose request does not come within 4 s, as a busy machine may have it.
UWSGI_SOCKET = ("--http-socket", "{socket}", "--socket-timeout", "60")
_BUILD_LIMIT = 300


def uwsgi_program(version: str) -> Path:
    """A uWSGI of this version and interpreter, built into ``build/`` if it is not there yet.

    uWSGI comes as source; that takes a quarter of a minute, a C compiler and a package
    index. Elsewhere the test is skipped, or fails where ``HBSHIM_REQUIRE_UWSGI=1``. It is
    built with two of its plug-ins and without optimisation, once for all processes of
    a run.
    """
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    prefix = CHECKOUT / "build" / f"uwsgi-{version}-python{python}-gevent"
    program = prefix / "bin" / "uwsgi"
    prefix.mkdir(parents=True, exist_ok=True)
    with (prefix / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if program.exists():
            return program
        # pip's cache does not know how a wheel was built.
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-cache-dir"]
        result = subprocess.run(
            [*pip, "--ignore-installed", "--prefix", prefix, f"uwsgi=={version}"],
            env={
                **os.environ,
                "UWSGI_PROFILE": "pyonly",
                "UWSGI_PROFILE_OVERRIDE": "embedded_plugins=python,gevent",
                "CFLAGS": "-O0 -w",
            },
            capture_output=True,
            text=True,
            timeout=_BUILD_LIMIT,
        )
    if program.exists():
        return program
    last_line = result.stderr.strip().rpartition("\n")[2]
    reason = f"uWSGI {version} cannot be built here: {last_line}"
    if os.environ.get("HBSHIM_REQUIRE_UWSGI") == "1":
        pytest.fail(reason)
    return pytest.skip(reason)


class Host:
    """A running host, with a directory that its processes leave their findings in."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        self._process = process
        self._directory = directory
        self._log = directory / "host.log"

    def found(self, name: str, timeout: float = START_LIMIT) -> Any:
        """What the application wrote under `name`, as soon as it has."""
        path = self._directory / name
        wait_until(lambda: path.exists() or self._died(), timeout)
        assert path.exists(), self._log.read_text()
        return json.loads(path.read_text())

    def has_found(self, name: str) -> bool:
        """Whether the application has written anything under `name`."""
        return (self._directory / name).exists()

    def get(self, path: str = "/") -> Any:
        """One request."""
        connection = http.client.HTTPConnection("localhost", timeout=START_LIMIT)
        connection.sock = self._connect()
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            assert response.status == 200, self._log.read_text()
            return json.loads(response.read())
        finally:
            connection.close()

    def wait_until_serving(self) -> None:
        """Return when the host accepts connections."""
        wait_until(lambda: self._accepts() or self._died(), START_LIMIT)
        assert not self._died(), self._log.read_text()

    def wait_until_said(self, words: str) -> None:
        """Return when the host has printed `words`."""
        wait_until(lambda: words in self.log() or self._died(), START_LIMIT)
        assert words in self.log(), self.log()

    def log(self) -> str:
        """All it has printed so far."""
        return self._log.read_text(errors="replace")

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(START_LIMIT)
        try:
            connection.connect(str(self._directory / "http.sock"))
        except OSError:
            connection.close()
            raise
        return connection

    def _accepts(self) -> bool:
        try:
            self._connect().close()
        except (FileNotFoundError, ConnectionRefusedError):  # not bound, or not listening yet
            return False
        return True

    def _died(self) -> bool:
        return self._process.poll() is not None


@contextlib.contextmanager
def hosted(
    *command: str | Path, patch: str = "", variables: Mapping[str, str] | None = None
) -> Iterator[Host]:
    """Run `command` until the block ends; ``{socket}`` in it becomes the socket's path.

    Parameters:
        patch: the library that the application itself patches with, "" for none.
        variables: what else its environment holds.
    """
    # Not pytest's tmp_path: a Unix socket's path must stay below 108 bytes.
    with tempfile.TemporaryDirectory(prefix="hbshim-") as name:
        directory = Path(name)
        environment = {
            **os.environ,
            "PYTHONPATH": str(CHECKOUT),
            "HOSTED_PATCH": patch,
            "HOSTED_DIRECTORY": name,
            "EVENTLET_TESTS": "1",  # silences eventlet's announcement of its retirement
            **(variables or {}),
        }
        with open(directory / "host.log", "wb") as log:
            process = subprocess.Popen(
                [str(part).replace("{socket}", f"{name}/http.sock") for part in command],
                env=environment,
                cwd=name,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield Host(process, directory)
        finally:
            # The whole group: masters do not always take their workers with them.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(60)
