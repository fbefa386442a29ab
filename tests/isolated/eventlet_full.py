"""eventlet has patched everything in a plain program."""

import eventlet

eventlet.monkey_patch()

import hbshim

report = hbshim.detect()
assert report.green.library == "eventlet"
assert report.green.extent == "full"
assert report.green.eventlet.version == eventlet.__version__
assert {"os", "select", "socket", "thread", "time"} <= set(report.green.eventlet.patched)
assert report.green.eventlet.missing == ()
assert report.green.sockets_green
assert report.green.tpool_threads == 20
assert not report.green.gevent.loaded
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
