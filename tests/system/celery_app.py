"""The Celery application that real workers run; see test_celery.py."""

from __future__ import annotations

import os
import time

import kombu
from celery import Celery

app = Celery("celery_app", broker=os.environ["URL"], backend="rpc://")
app.conf.broker_heartbeat = int(os.environ["BROKER_HEARTBEAT"])
app.conf.broker_connection_retry_on_startup = True
app.conf.task_default_queue = os.environ["QUEUE"]
# The test has declared both queues, so that they expire.
app.conf.task_queues = [kombu.Queue(os.environ["QUEUE"], no_declare=True)]
if os.environ["SHIM"] == "celery app":
    import hbshim

    hbshim.install(app)


if os.environ.get("PUBLISH") == "at import":
    # The worker's main process fills its pool before it forks.
    app.send_task("before", queue=kombu.Queue(os.environ["SINK"], no_declare=True))


@app.task  # type: ignore[untyped-decorator]
def nap(seconds: float) -> int:
    """Keep the pool busy, and return the process that did."""
    time.sleep(seconds)
    return os.getpid()


@app.task(ignore_result=True)  # type: ignore[untyped-decorator]
def pass_on(word: str) -> None:
    """Be a producer inside a worker: without Celery's retries, so that a loss shows."""
    sink = kombu.Queue(os.environ["SINK"], no_declare=True)
    app.send_task(word, queue=sink, ignore_result=True, retry=False)
