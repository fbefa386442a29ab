"""Stand-ins shaped like the module that uWSGI makes; the real one is run by tests/runtime."""

from __future__ import annotations

import sys
import types
from typing import Any

import gevent.monkey

import hbshim


def serve(**attributes: Any) -> None:
    module = types.ModuleType("uwsgi")
    defaults = {"version": b"2.0.21", "numproc": 4, "cores": 1, "loop": None, "opt": {}}
    vars(module).update(defaults, **attributes)
    sys.modules["uwsgi"] = module


# The stubs that type checkers use have no `opt`.
sys.modules["uwsgi"] = types.ModuleType("uwsgi")
assert hbshim.detect().host.kind == "plain"

serve(has_threads=0)
threadless = hbshim.detect()
assert threadless.host.kind == "uwsgi"
assert threadless.host.mode == "sync"
assert threadless.host.version == "2.0.21"
assert (threadless.host.processes, threadless.host.threads) == (4, 1)
assert threadless.host.threads_run is False
assert threadless.host.lazy_apps is False
assert threadless.choice.worker == "pthread"
assert "--enable-threads" in threadless.choice.warning  # type: ignore[operator]

# Without has_threads, the options tell; bytes as in Python 3, str as in some builds.
for options, threads_run, lazy_apps in (
    ({}, False, False),
    ({b"enable-threads": True}, True, False),
    ({"enable-threads": True, "lazy-apps": True}, True, True),
    ({b"threads": b"4", b"lazy": True}, True, True),
):
    serve(opt=options)
    host = hbshim.detect().host
    assert (host.threads_run, host.lazy_apps) == (threads_run, lazy_apps), options

gevent.monkey.patch_all()

serve(has_threads=1)
sync = hbshim.detect()
assert (sync.hub, sync.choice.worker, sync.choice.warning) == ("parked", "pthread", None)

serve(has_threads=1, loop=b"gevent", cores=100)
loop = hbshim.detect()
assert (loop.host.mode, loop.host.threads) == ("gevent", 100)
assert (loop.hub, loop.choice.worker) == ("runs", "greenthread")

# In the gevent loop a green thread needs no native ones; a native one does.
serve(has_threads=0, loop=b"gevent")
assert hbshim.detect().choice.warning is None
assert "--enable-threads" in hbshim.detect(heartbeat_in_pthread=True).choice.warning  # type: ignore[operator]

serve(has_threads=1, loop=b"asyncio")
other = hbshim.detect()
assert (other.hub, other.choice.worker) == ("unknown", "pthread")

print("pass")
