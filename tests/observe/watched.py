"""A process that can be watched: its main thread blocks, so a hub stands still.

    python tests/observe/watched.py native|eventlet|gevent PATH [PORT...]

Ends when its standard input does; a line there is Python to run.
"""

from __future__ import annotations

# ruff: noqa: E402, T201 - patch first, import later; the answers are printed.
import sys
from typing import Any

MODEL, PATH = sys.argv[1:3]
if MODEL == "eventlet":
    import eventlet

    eventlet.monkey_patch()
elif MODEL == "gevent":
    from gevent import monkey

    monkey.patch_all()

from hbshim.adapters.sockets import wire_for
from hbshim.heartbeat import service
from hbshim.heartbeat.link import Link
from hbshim.observe import listen
from hbshim.runtime.unpatched import original

socket = __import__("socket")


def open_link(timeout: float) -> tuple[Any, ...]:
    """A link to a peer in this process that sends nothing."""
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    wire = wire_for(client)
    link = Link(wire, timeout, wire.name(), service.current().metrics)
    service.current().watch(link, "pthread")
    return server, client, link


kept = [open_link(60.0), open_link(2.0)]
listen(PATH)
print("ready", flush=True)
# A green file would let the hub run.
read = original("os", "read")
while line := read(0, 65536):
    exec(line.decode())
