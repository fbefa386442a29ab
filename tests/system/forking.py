"""What a forked child may do to its parent's connection; used by the agent."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import hbshim
from hbshim.heartbeat import service
from hbshim.runtime.unpatched import original
from tests.native_fork import fork_in_c
from tests.waiting import wait_until

CHILD_LIMIT = 25

#: Given the parent's client and a function that waits for the parent's word.
Act = Callable[[Any, Callable[[], None]], Any]


def write(client: Any, _wait: Any) -> Any:
    """Publish on the parent's connection: refused with an error that makes code reconnect."""
    try:
        client.publish(10)
    except Exception as error:
        return {"recoverable": client.recoverable(error), "message": str(error)}
    return {"recoverable": None, "message": "accepted"}


def close(client: Any, _wait: Any) -> Any:
    """Close the parent's connection, as the child's own clean-up would."""
    try:
        client.close()
    except Exception as error:
        return {"recoverable": client.recoverable(error)}
    return {"recoverable": True}


def clean_up(client: Any, _wait: Any) -> Any:
    """Have the library drop the connection, which shuts the socket down without hbshim."""
    client.clean_up()
    return {"sockets": sockets_to(client.opening["port"])}


def collect(client: Any, _wait: Any) -> Any:
    """Let go of the parent's connection and collect the garbage."""
    client.connection = client.channel = client.kombu = None
    gc.collect()
    return {"links": len(service.current().links())}


def reconnect(client: Any, _wait: Any) -> Any:
    """Open a connection of the child's own."""
    client.opening["name"] += "-child"
    client.queue = None
    client.connect()
    client.publish(10)
    (link,) = service.current().links()
    return {"state": link.state.value}


def connect_beside(client: Any, wait: Callable[[], None]) -> Any:
    """Open a connection before the parent does, and use it after."""
    answer = reconnect(client, wait)
    wait()
    client.publish(10)
    # RabbitMQ's answer may overtake a publish.
    wait_until(lambda: client.count() == 2)
    (link,) = service.current().links()
    return {**answer, "heartbeats_sent": link.heartbeats_sent}


def idle(client: Any, _wait: Any) -> Any:
    """Do nothing; the parent's socket must be gone from here all the same."""
    return {"sockets": sockets_to(client.opening["port"])}


def outlive(client: Any, wait: Callable[[], None]) -> Any:
    """Publish on the inherited connection when the parent has closed it."""
    wait()
    return write(client, wait)


ACTS: dict[str, Act] = {
    act.__name__: act
    for act in (write, close, clean_up, collect, reconnect, connect_beside, idle, outlive)
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


class Child:
    """A forked child that acts, and reports the result.

    Parameters:
        way: ``os`` for os.fork(); ``c`` for a fork in C, as uWSGI and mod_wsgi do it,
            behind Python's back; ``multiprocessing`` for a Process that exits normally.
    """

    def __init__(self, act: Act, client: Any, way: str) -> None:
        self._answers, self._reports = os.pipe()
        self._waits, self._says = os.pipe()
        self._process: Any = None

        def main() -> None:
            # A child that hangs must not outlive the test.
            signal.alarm(CHILD_LIMIT)
            answer: Any = {"error": "the child was interrupted"}
            try:
                answer = act(client, lambda: original("os", "read")(self._waits, 1))
            except Exception:
                answer = {"error": traceback.format_exc()}
            finally:
                os.write(self._reports, json.dumps(answer).encode() + b"\n")

        with warnings.catch_warnings():
            # Python 3.12 warns of a fork with threads; that is what is tested here.
            warnings.simplefilter("ignore", DeprecationWarning)
            if way == "multiprocessing":
                self._process = multiprocessing.get_context("fork").Process(target=main)
                self._process.start()
                return
            self._pid = os.fork() if way == "os" else fork_in_c()
        if self._pid == 0:
            try:
                main()
            finally:
                os._exit(0)

    def answer(self) -> Any:
        """Let the child go on, and return its answer when it has ended."""
        os.write(self._says, b"!")
        # A line, not the end of the stream: gevent puts closing off until its hub runs.
        with os.fdopen(self._answers) as pipe:
            answer = json.loads(pipe.readline())
        if self._process is not None:
            self._process.join()
        else:
            # gevent's own would wait for a signal that its hub, parked here, never handles.
            original("os", "waitpid")(self._pid, 0)
        for descriptor in (self._reports, self._waits, self._says):
            os.close(descriptor)
        return answer


def in_forkserver(opening: dict[str, Any], pickled: Any) -> Any:
    """What a child of a fork server does: it inherits nothing, and opens its own."""
    context = multiprocessing.get_context("forkserver")
    reading, writing = context.Pipe(duplex=False)
    process = context.Process(target=_forkserver_main, args=(writing, opening, pickled))
    process.start()
    answer = reading.recv()
    process.join()
    return answer


def _forkserver_main(writing: Any, opening: dict[str, Any], pickled: Any) -> None:
    from tests.stress.clients import PikaClient

    inherited = sockets_to(opening["port"])
    hbshim.install()
    if pickled is not None:  # a kombu.Connection travels without its socket
        pickled.connect()
        pickled.default_channel.queue_declare("", exclusive=True)
    else:
        client = PikaClient({**opening, "name": opening["name"] + "-child"})
        client.connect()
        client.publish(10)
    (link,) = service.current().links()
    writing.send({"inherited": inherited, "state": link.state.value})
