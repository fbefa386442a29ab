"""eventlet's pool has one thread, which the heartbeat would take away from the program."""

import os

os.environ["EVENTLET_THREADPOOL_SIZE"] = "1"

import eventlet

eventlet.monkey_patch()

import hbshim

report = hbshim.detect(worker_late=True)
assert report.green.tpool_threads == 1
assert report.choice.worker == "pthread"

forced = hbshim.detect(worker="tpool").choice
assert forced.worker == "tpool"
assert "EVENTLET_THREADPOOL_SIZE" in forced.warning  # type: ignore[operator]

os.environ["EVENTLET_THREADPOOL_SIZE"] = "many"
assert hbshim.detect().green.tpool_threads == 0

print("pass")
