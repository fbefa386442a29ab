"""What hbshim sees inside a real uWSGI, and whether it is so."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.hosting import (
    CURRENT_UWSGI,
    THREADS_OPTIONAL_UWSGI,
    UWSGI_SOCKET,
    hosted,
    uwsgi_program,
)
from tests.waiting import wait_until


@pytest.fixture(scope="session")
def uwsgi() -> Path:
    return uwsgi_program(CURRENT_UWSGI)


@pytest.fixture(scope="session")
def old_uwsgi() -> Path:
    return uwsgi_program(THREADS_OPTIONAL_UWSGI)


def serve(program: Path, *options: str, patch: str = "") -> Any:
    server: list[str | Path] = [program, "--home", sys.prefix, *UWSGI_SOCKET, "--need-app"]
    return hosted(*server, "--module", "tests.runtime.hosted_app", *options, patch=patch)


@pytest.mark.parametrize("patch", ["", "eventlet", "gevent"])
def test_a_sync_worker_parks_the_hub(uwsgi: Path, patch: str) -> None:
    with serve(uwsgi, "--threads", "2", patch=patch) as host:
        host.wait_until_serving()
        report = host.get()["report"]
        assert (report["host"]["kind"], report["host"]["mode"]) == ("uwsgi", "sync")
        assert report["host"]["version"] == CURRENT_UWSGI
        assert (report["host"]["processes"], report["host"]["threads"]) == (1, 2)
        assert report["host"]["threads_run"]
        assert report["host"]["lazy_apps"] is False
        assert report["hub"] == ("parked" if patch else "none")
        assert report["choice"]["worker"] == "pthread"
        assert report["choice"]["warning"] is None
        host.found("native-clock")
        assert host.get()["ticks"]["green"] == 0


def test_the_gevent_loop_runs_the_hub(uwsgi: Path) -> None:
    with serve(uwsgi, "--gevent", "10", "--gevent-monkey-patch") as host:
        host.wait_until_serving()
        report = host.get()["report"]
        assert (report["host"]["kind"], report["host"]["mode"]) == ("uwsgi", "gevent")
        assert report["host"]["threads"] == 10
        assert report["hub"] == "runs"
        assert report["choice"]["worker"] == "greenthread"
        host.found("native-clock")
        wait_until(lambda: host.get()["ticks"]["green"] > 0)


def test_the_application_loads_before_the_fork_or_after(uwsgi: Path) -> None:
    master = ["--master", "--processes", "1"]
    with serve(uwsgi, *master) as host:
        host.wait_until_serving()
        report = host.get()["report"]
        assert report["host"]["lazy_apps"] is False
        assert report["forked_since_import"]
    with serve(uwsgi, *master, "--lazy-apps") as host:
        host.wait_until_serving()
        report = host.get()["report"]
        assert report["host"]["lazy_apps"] is True
        assert not report["forked_since_import"]


def test_without_enable_threads_native_threads_stand_still(old_uwsgi: Path) -> None:
    with serve(old_uwsgi) as host:
        host.wait_until_serving()
        report = host.get()["report"]
        assert report["host"]["version"] == THREADS_OPTIONAL_UWSGI
        assert report["host"]["threads_run"] is False
        assert report["choice"]["worker"] == "pthread"
        assert "--enable-threads" in report["choice"]["warning"]
        # Silence is what is tested: twice as long as a running clock needs.
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            assert not host.has_found("native-clock")
            time.sleep(0.05)


@pytest.mark.parametrize("option", [["--enable-threads"], ["--threads", "2"]])
def test_with_enable_threads_native_threads_run(old_uwsgi: Path, option: list[str]) -> None:
    with serve(old_uwsgi, *option) as host:
        host.wait_until_serving()
        report = host.get()["report"]
        assert report["host"]["threads_run"] is True
        assert report["choice"]["warning"] is None
        host.found("native-clock")
