"""gevent is imported, its monkey module too, and has patched nothing."""

import gevent
import gevent.monkey

import hbshim

report = hbshim.detect()
assert report.green.gevent.loaded
assert report.green.gevent.extent == "none"
assert report.green.library == "none"
assert report.hub == "none"
assert report.choice.worker == "pthread"
assert hbshim.detect(worker_late=True).choice.worker == "pthread"
assert "monkey_patch() first" in hbshim.detect(worker="tpool").choice.warning  # type: ignore[operator]
assert f"gevent {gevent.__version__} is loaded but has patched nothing." in report.explain()

print("pass")
