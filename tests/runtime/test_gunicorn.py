"""What hbshim sees inside a real gunicorn, and whether it is so."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest

from tests.runtime.hosting import hosted
from tests.waiting import wait_until

GUNICORN = [sys.executable, "-m", "gunicorn", "--bind", "unix:{socket}", "--workers", "1"]
APPLICATION = "tests.runtime.hosted_app"


def gunicorn(worker_class: str, *options: str, patch: str = "") -> Any[Any]:
    if worker_class == "eventlet" and not importlib.util.find_spec("gunicorn.workers.geventlet"):
        pytest.skip("this gunicorn has no eventlet worker (removed in version 26)")
    return hosted(*GUNICORN, "--worker-class", worker_class, *options, APPLICATION, patch=patch)


@pytest.mark.parametrize("worker_class", ["eventlet", "gevent"])
def test_a_green_worker_runs_its_hub_between_requests(worker_class: str) -> None:
    with gunicorn(worker_class) as host:
        host.wait_until_serving()
        report = host.get()["report"]
        assert report["host"]["kind"] == "gunicorn"
        assert report["host"]["mode"] == worker_class
        assert report["green"]["library"] == worker_class
        assert report["hub"] == "runs"
        assert report["choice"]["worker"] == "greenthread"
        assert report["choice"]["warning"] is None
        host.found("native-clock")
        wait_until(lambda: host.get()["ticks"]["green"] > 0)


@pytest.mark.parametrize("patch", ["", "eventlet", "gevent"])
def test_a_sync_worker_promises_no_hub(patch: str) -> None:
    with gunicorn("sync", patch=patch) as host:
        host.wait_until_serving()
        report = host.get()["report"]
        assert (report["host"]["kind"], report["host"]["mode"]) == ("gunicorn", "sync")
        assert (report["host"]["processes"], report["host"]["threads"]) == (1, 1)
        assert report["hub"] == ("unknown" if patch else "none")
        assert report["choice"]["worker"] == "pthread"
        assert report["choice"]["warning"] is None
        host.found("native-clock")


@pytest.mark.parametrize(("patch", "hub"), [("", "none"), ("eventlet", "parked")])
def test_a_threaded_worker_parks_the_hub(patch: str, hub: str) -> None:
    # An application that patches inside gthread may hang there at its first request, with
    # or without hbshim; so it is asked at import.
    with gunicorn("gthread", "--threads", "3", patch=patch) as host:
        report = host.found("at-import")
        assert (report["host"]["kind"], report["host"]["mode"]) == ("gunicorn", "gthread")
        assert report["host"]["threads"] == 3
        assert report["hub"] == hub
        assert report["choice"]["worker"] == "pthread"


def test_a_preloading_master_names_the_worker_class_to_come() -> None:
    with gunicorn("gthread", "--preload") as host:
        report = host.found("at-import")
        assert (report["host"]["kind"], report["host"]["mode"]) == ("gunicorn", "gthread")
        assert not report["forked_since_import"]
        host.wait_until_serving()
        report = host.get()["report"]
        assert report["host"]["mode"] == "gthread"
        assert report["forked_since_import"]
        host.found("native-clock")
