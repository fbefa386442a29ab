"""eventlet is imported, as `import oslo_messaging` always does, and has patched nothing."""

import eventlet
import eventlet.tpool

import hbshim

report = hbshim.detect()
assert report.green.eventlet.loaded
assert report.green.eventlet.version == eventlet.__version__
assert report.green.eventlet.extent == "none"
assert report.green.library == "none"
assert report.hub == "none"
assert report.choice.worker == "pthread"
assert f"eventlet {eventlet.__version__} is loaded but has patched nothing." in report.explain()

print("pass")
