"""A Celery application that has never heard of hbshim; run by test_celery.py."""

import os
import time

from celery import Celery

app = Celery("celery_app", broker=os.environ["URL"], backend="rpc://")
app.conf.broker_heartbeat = 1
app.conf.broker_connection_retry_on_startup = True
app.conf.task_default_queue = os.environ["QUEUE"]


@app.task
def nap(seconds):
    """Sleep, holding a prefetched task's worth of silence, and say which process slept."""
    time.sleep(seconds)
    return os.getpid()
