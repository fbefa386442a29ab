"""eventlet has patched all but `select` and `thread`."""

import eventlet

eventlet.monkey_patch(select=False, thread=False)

import hbshim

report = hbshim.detect()
assert report.green.library == "eventlet"
assert report.green.extent == "partly"
assert report.green.eventlet.missing == ("select", "thread")
assert report.green.sockets_green
assert report.hub == "runs"
assert report.choice.worker == "greenthread"
assert any("left native: select, thread" in sentence for sentence in report.explain())

print("pass")
