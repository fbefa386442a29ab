"""Stand-ins shaped like the modules that mod_wsgi 6.1 makes inside Apache."""

from __future__ import annotations

import sys
import types
from typing import Any

import eventlet

import hbshim


def serve(**attributes: Any) -> None:
    module = types.ModuleType("mod_wsgi")
    vars(module).update(version=(6, 1, 1), **attributes)
    sys.modules["mod_wsgi"] = module


# pip's package of the same name, imported outside Apache, has no process_group.
sys.modules["mod_wsgi"] = types.ModuleType("mod_wsgi")
assert hbshim.detect().host.kind == "plain"

apache = types.ModuleType("apache")
vars(apache)["mpm_name"] = "prefork"
sys.modules["apache"] = apache
serve(process_group="", application_group="", maximum_processes=5, threads_per_process=1)

unpatched = hbshim.detect()
assert unpatched.host.kind == "mod_wsgi"
assert unpatched.host.mode == "embedded"
assert unpatched.host.version == "6.1.1"
assert (unpatched.host.processes, unpatched.host.threads) == (5, 1)
assert unpatched.host.mpm == "prefork"
assert unpatched.host.application_group == ""
assert unpatched.hub == "none"
assert unpatched.choice.worker == "pthread"

eventlet.monkey_patch()

embedded = hbshim.detect()
assert embedded.hub == "parked"
assert embedded.choice.worker == "pthread"
assert embedded.choice.warning is None
assert any("mod_wsgi 6.1.1, embedded, Apache MPM prefork" in line for line in embedded.explain())

green = hbshim.detect(heartbeat_in_pthread=False).choice
assert green.worker == "greenthread"
assert "parks the hub" in green.warning  # type: ignore[operator]
tpool = hbshim.detect(worker="tpool").choice
assert tpool.worker == "tpool"
assert "parks the hub" in tpool.warning  # type: ignore[operator]

serve(process_group="api", application_group="x|", maximum_processes=2, threads_per_process=15)
daemon = hbshim.detect()
assert daemon.host.mode == "daemon"
assert daemon.host.process_group == "api"
assert (daemon.host.processes, daemon.host.threads) == (2, 15)
assert daemon.hub == "parked"
assert daemon.choice.worker == "pthread"

print("pass")
