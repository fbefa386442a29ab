"""eventlet has patched much, but the program waits for the broker in native sockets."""

import eventlet

eventlet.monkey_patch(socket=False)

import hbshim

report = hbshim.detect()
assert report.green.extent == "partly"
assert report.green.eventlet.missing == ("socket",)
assert not report.green.sockets_green
assert report.hub == "blocked"
assert report.choice.worker == "pthread"

chosen_by_user = hbshim.detect(heartbeat_in_pthread=False).choice
assert chosen_by_user.worker == "greenthread"
assert "sockets are not patched" in chosen_by_user.warning  # type: ignore[operator]

print("pass")
