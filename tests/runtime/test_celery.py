"""What hbshim sees inside a real Celery worker."""

from __future__ import annotations

import sys

import pytest

from tests.runtime.hosting import hosted

WORKER = [sys.executable, "-m", "celery", "-A", "tests.runtime.hosted_celery", "worker"]
OPTIONS = ["--concurrency", "2", "--without-gossip", "--without-mingle"]


@pytest.mark.parametrize(
    ("pool", "patch", "hub", "worker"),
    [
        ("prefork", "", "none", "pthread"),
        ("prefork", "eventlet-sockets", "parked", "pthread"),
        ("solo", "", "none", "pthread"),
        ("solo", "eventlet-sockets", "unknown", "pthread"),
        ("threads", "", "none", "pthread"),
        ("eventlet", "", "runs", "greenthread"),
        ("gevent", "", "runs", "greenthread"),
    ],
)
def test_the_pool_decides(pool: str, patch: str, hub: str, worker: str) -> None:
    with hosted(*WORKER, "--pool", pool, *OPTIONS, patch=patch) as host:
        for name in ("worker-ready", "in-task"):
            report = host.found(name)
            assert (report["host"]["kind"], report["host"]["mode"]) == ("celery", pool)
            assert report["host"]["version"]
            assert report["hub"] == hub
            assert report["choice"]["worker"] == worker
            assert report["choice"]["warning"] is None
        assert report["forked_since_import"] == (pool == "prefork")
