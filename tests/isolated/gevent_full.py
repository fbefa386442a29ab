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
assert report.green.tpool_threads == 0
assert not report.green.eventlet.loaded
assert report.hub == "runs"
assert report.choice.worker == "greenthread"
assert hbshim.detect(ticks_late=True).choice.worker == "pthread"

forced = hbshim.detect(worker="tpool").choice
assert forced.worker == "tpool"
assert "eventlet is not loaded" in forced.warning

print("pass")
