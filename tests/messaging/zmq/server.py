"""A server in a process of its own: ``server.py URL IPC_DIRECTORY TOPIC``."""

from __future__ import annotations

import sys
import threading

from hbshim import messaging


class Endpoint:
    """Says what it does, in lines."""

    def hold(self, _request: messaging.Request) -> None:
        print("holding", flush=True)  # noqa: T201 - the test reads it
        threading.Event().wait()

    def echo(self, _request: messaging.Request, value: object) -> object:
        return value


def main(url: str, ipc: str, topic: str) -> None:
    driver = messaging.connect(url, rpc_zmq_ipc_dir=ipc)
    server = messaging.Server(driver, messaging.Target(topic), [Endpoint()], workers=2)
    assert server.start(30)
    print("started", flush=True)  # noqa: T201 - the test reads it
    sys.stdin.read()


main(*sys.argv[1:])
