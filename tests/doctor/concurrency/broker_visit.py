"""A patched program examines its broker: the heartbeats there come from its own worker."""

# ruff: noqa: E402, T201

import os
import sys

model, client, ca = sys.argv[1:]
if model == "eventlet":
    import eventlet

    eventlet.monkey_patch()
elif model == "gevent":
    from gevent import monkey

    monkey.patch_all()

from hbshim.doctor import examine

expected = "pthread" if model == "native" else "greenthread"
for url, route in ((os.environ["URL"], "plain"), (os.environ["TLS_URL"], "tls")):
    report = examine(url, client=client, ca=ca if route == "tls" else None, heartbeat=2, timeout=60)
    for check in ("worker", "connection", "heartbeat-out", "heartbeat-in", "libraries"):
        assert report.finding(check).verdict == "ok", report.finding(check)
    assert f"({route})" in report.finding("connection").sentence
    assert f"from {expected};" in report.finding("heartbeat-out").sentence

print("pass")
