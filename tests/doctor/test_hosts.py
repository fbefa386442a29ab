"""The doctor called inside a real uWSGI."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.runtime.hosting import (
    CURRENT_UWSGI,
    THREADS_OPTIONAL_UWSGI,
    UWSGI_SOCKET,
    hosted,
    uwsgi_program,
)
from wsgi_harness.stack.broker import Broker


def findings(program: Path, *options: str, patch: str = "") -> dict[str, dict[str, str]]:
    """What the doctor finds within one request."""
    server: list[str | Path] = [program, "--home", sys.prefix, *UWSGI_SOCKET, "--need-app"]
    module = ["--module", "tests.doctor.hosted_app"]
    with hosted(*server, *module, *options, patch=patch) as host:
        host.wait_until_serving()
        return {found["check"]: found for found in host.get()["findings"]}


def test_uwsgi_without_threads_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTED_URL", "")
    found = findings(uwsgi_program(THREADS_OPTIONAL_UWSGI))
    assert found["uwsgi-threads"]["verdict"] == "problem"
    assert "--enable-threads" in found["uwsgi-threads"]["remedy"]
    assert found["uwsgi-lazy-apps"]["verdict"] == "unknown"


@pytest.mark.parametrize("patch", ["", "eventlet", "gevent"])
def test_a_heartbeat_is_observed_within_a_request(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, patch: str
) -> None:
    monkeypatch.setenv("HOSTED_URL", broker.amqp_url())
    master = ["--master", "--processes", "1", "--lazy-apps"]
    found = findings(uwsgi_program(CURRENT_UWSGI), *master, patch=patch)
    for check in (
        "uwsgi-threads",
        "uwsgi-lazy-apps",
        "worker",
        "connection",
        "heartbeat-out",
        "heartbeat-in",
    ):
        assert found[check]["verdict"] == "ok", found[check]
    # The hub is parked between requests, whatever has patched.
    assert "from pthread;" in found["heartbeat-out"]["sentence"]
