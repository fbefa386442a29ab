"""One contestant's client or server, in a process of its own.

``python -m hbshim.bench.rpc.agent ROLE KIND SCHEME TOPIC MODEL``: each line read, of JSON, asks
for something and is answered by one. The broker's URL comes from the environment.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from hbshim.bench.publisher import BROKER_VARIABLE

#: For each kind of contestant the module, by its scheme where there is one for each, and in it
#: what makes a client and a server of (scheme, url, topic).
KINDS = {
    "plug-in": ("rpc.plugin", "PluginClient", "PluginServer"),
    "own": ("rpc.own", "OwnClient", "OwnServer"),
    "bare": ("rpc.bare_{}", "client", "Server"),
    "bare pyzmq": ("zmq.through_{}", "client", "Server"),
    "bare amqp1": ("amqp1.bare_{}", "client", "Server"),
}


def main(role: str, kind: str, scheme: str, topic: str, model: str) -> None:
    """Answer until standard input ends."""
    if model == "eventlet":
        import eventlet

        eventlet.monkey_patch()
    elif model == "gevent":
        from gevent import monkey

        monkey.patch_all()
    module, client, server = KINDS[kind]
    found = importlib.import_module(f"hbshim.bench.{module.format(scheme)}")
    make = getattr(found, server if role == "server" else client)
    contestant = make(scheme, os.environ[BROKER_VARIABLE], topic)
    _send({"ready": True})
    answer = _answer_server if role == "server" else _answer_client
    for line in _lines():
        _send(answer(contestant, json.loads(line)))


def _answer_server(server: Any, order: dict[str, Any]) -> dict[str, Any]:
    if order["work"] == "stop":
        server.stop()
    return {"counts": server.counts(), "cpu": time.process_time()}


def _answer_client(client: Any, order: dict[str, Any]) -> dict[str, Any]:
    from hbshim.bench.rpc.parts import repeat

    work, seconds = order["work"], order["seconds"]
    begin, cpu = time.monotonic(), time.process_time()
    if work == "call":
        taken = client.calls(order["callers"], seconds)
    else:
        taken = repeat(getattr(client, work), seconds, order["most"])
    whole, cpu = time.monotonic() - begin, time.process_time() - cpu
    return {
        "begin": begin,
        "seconds": whole,
        "cpu": cpu,
        "taken": [round(1e6 * each) for each in taken],
    }


def _lines() -> Iterator[str]:
    # Looked up here: under eventlet a green one, so that the process goes on meanwhile.
    import select

    while True:
        # The file, not its descriptor: eventlet takes a 0 for nothing to wait for.
        select.select([sys.stdin], [], [])
        line = sys.stdin.readline()
        if not line:
            return
        yield line


def _send(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
