"""What a forked child may do to its parent's connection; used by the agent."""

from __future__ import annotations

import ctypes
import gc
import json
import multiprocessing
import os
import warnings
from collections.abc import Callable
from typing import Any

from hbshim.heartbeat import service
from hbshim.runtime.unpatched import original

Child = Callable[[Any], Any]


def write(client: Any) -> Any:
    """Publish on the parent's connection: refused with an error that makes code reconnect."""
    try:
        client.publish(10)
    except Exception as error:
        return {"recoverable": client.recoverable(error), "message": str(error)}
    return {"recoverable": None, "message": "accepted"}


def close(client: Any) -> Any:
    """Close the parent's connection, as the child's own clean-up would."""
    try:
        client.close()
    except Exception as error:
        return {"recoverable": client.recoverable(error)}
    return {"recoverable": True}


def collect(client: Any) -> Any:
    """Let go of the parent's connection and collect the garbage."""
    client.connection = client.channel = client.kombu = None
    gc.collect()
    return {"links": len(service.current().links())}


def reconnect(client: Any) -> Any:
    """Open a connection of the child's own."""
    client.opening["name"] += "-child"
    client.queue = None
    client.connect()
    client.publish(10)
    (link,) = service.current().links()
    return {"state": link.state.value}


def idle(client: Any) -> Any:
    """Do nothing; the parent's socket must be gone from here all the same."""
    return {"sockets": sockets_to(client.opening["port"])}


CHILDREN: dict[str, Child] = {
    child.__name__: child for child in (write, close, collect, reconnect, idle)
}


def sockets_to(port: int) -> int:
    """TCP sockets of this process that are connected to `port`."""
    held = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            held.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:
            continue  # the directory's own
    with open("/proc/self/net/tcp", encoding="ascii") as table:
        lines = [line.split() for line in table.readlines()[1:]]
    # proc(5): remote address and port in hexadecimal, and the inode.
    there = {f"socket:[{line[9]}]" for line in lines if line[2].endswith(f":{port:04X}")}
    return sum(descriptor in there for descriptor in held)


def run_child(child: Child, client: Any, way: str) -> Any:
    """Fork, run `child` there, and return what it returns.

    Parameters:
        way: ``os`` for os.fork(); ``c`` for a fork in C, as uWSGI and mod_wsgi do it,
            behind Python's back; ``multiprocessing`` for a Process that exits normally.
    """
    if way == "multiprocessing":
        return _run_process(child, client)
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork with threads; that is what is tested here.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork() if way == "os" else ctypes.PyDLL(None).fork()
    if pid == 0:
        answer: Any = {"error": "the child failed"}
        try:
            answer = child(client)
        finally:
            os.write(writing, json.dumps(answer).encode() + b"\n")
            os._exit(0)
    # A line, not the end of the stream: gevent puts closing off until its hub runs.
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = json.loads(pipe.readline())
    # gevent's own would wait for a signal that its hub, parked here, never handles.
    original("os", "waitpid")(pid, 0)
    return answer


def _run_process(child: Child, client: Any) -> Any:
    context = multiprocessing.get_context("fork")
    reading, writing = context.Pipe(duplex=False)

    def main() -> None:
        writing.send(child(client))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        process = context.Process(target=main)
        process.start()
    answer = reading.recv()
    process.join()
    return answer
