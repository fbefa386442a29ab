"""gevent has patched everything in a plain program."""

import gevent.monkey

gevent.monkey.patch_all()

import hbshim

report = hbshim.detect()
assert report.green.library == "gevent"
assert report.green.extent == "full"
assert report.green.gevent.version == gevent.__version__
assert {"os", "select", "socket", "thread", "time"} <= set(report.green.gevent.patched)
assert report.green.sockets_green
assert report.green.tpool_threads == 10
assert not report.green.eventlet.loaded
assert report.hub == "runs"
assert report.choice.worker == "greenthread"
assert report.choice.warning is None

assert hbshim.detect(heartbeat_in_pthread=True).choice.worker == "pthread"
assert hbshim.detect(heartbeat_in_pthread=False).choice.worker == "greenthread"
assert hbshim.detect(worker="tpool").choice.worker == "tpool"
assert hbshim.detect(worker="tpool").choice.warning is None

late = hbshim.detect(worker_late=True).choice
assert late.worker == "tpool"
assert "late" in late.reason

print("pass")
