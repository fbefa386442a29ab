"""The Celery application that the real worker runs; see ``hosted_app.py``."""

from __future__ import annotations

import os

if os.environ["HOSTED_PATCH"] == "eventlet-sockets":
    import eventlet

    # Patching `select` as well takes away select.poll, without which the prefork pool's
    # billiard dies at its first task, with or without hbshim.
    eventlet.monkey_patch(socket=True)

from celery import Celery
from celery.signals import worker_ready

from hbshim.runtime.detect import detect
from tests.runtime.hosted_app import record

# The worker sends itself a task, so a broker inside its own process is enough.
app = Celery("hosted", broker="memory://")


@app.task  # type: ignore[untyped-decorator]
def look() -> None:
    """What hbshim sees where tasks run."""
    record("in-task", detect().as_dict())


@worker_ready.connect  # type: ignore[untyped-decorator]
def _send(**_: object) -> None:
    record("worker-ready", detect().as_dict())
    look.delay()
