"""The program patches while connections are open: our locks stay native."""

from __future__ import annotations

import _thread
import socket

from hbshim.adapters.sockets import native_socket
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.service import current
from hbshim.heartbeat.wire import Wire

NATIVE = type(_thread.RLock())
NATIVE_LOCK = type(_thread.allocate_lock())

server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
link = Link(Wire(native_socket(client)), 60, "early", current().metrics)
current().watch(link, "pthread")


class Reachable:
    def __init__(self) -> None:
        self.lock = _thread.RLock()


reachable = Reachable()

import eventlet

eventlet.monkey_patch()

# What eventlet can reach it does replace, so the checks below could fail.
assert type(reachable.lock) is not NATIVE
assert type(current().engine("pthread")._run.busy) is NATIVE_LOCK

print("pass")
