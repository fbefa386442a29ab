"""eventlet and gevent have both patched: no hub can be relied on."""

import eventlet

eventlet.monkey_patch(socket=True, time=True)

import gevent.monkey

gevent.monkey.patch_socket()

import hbshim

report = hbshim.detect()
assert report.green.library == "both"
assert report.green.contested == ("socket",)
assert report.hub == "unknown"
assert report.choice.worker == "pthread"
assert "patch with one of them only" in report.choice.warning  # type: ignore[operator]
assert hbshim.detect(worker_late=True).choice.worker == "pthread"

print("pass")
