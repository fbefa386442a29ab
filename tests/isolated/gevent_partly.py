"""gevent has patched sockets and time alone."""

import gevent.monkey

gevent.monkey.patch_dns()

import hbshim

# DNS functions live in `socket`, which gevent then calls patched; its sockets are native.
assert hbshim.detect().green.library == "none"

gevent.monkey.patch_socket()
gevent.monkey.patch_time()

report = hbshim.detect()
assert report.green.library == "gevent"
assert report.green.extent == "partly"
assert report.green.gevent.patched == ("socket", "time")
assert report.green.gevent.missing == ("os", "select", "thread")
assert report.hub == "runs"
assert report.choice.worker == "greenthread"

print("pass")
