"""gevent's pool has one thread, which the heartbeat would take away from the program."""

import gevent.hub
import gevent.monkey

gevent.hub.Hub.threadpool_size = 1
gevent.monkey.patch_all()

import hbshim

report = hbshim.detect(worker_late=True)
assert report.green.tpool_threads == 1
assert report.choice.worker == "pthread"

forced = hbshim.detect(worker="tpool").choice
assert forced.worker == "tpool"
assert "threadpool_size" in forced.warning  # type: ignore[operator]

print("pass")
