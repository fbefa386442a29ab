"""A server in a process of its own: ``server.py URL IPC_DIRECTORY TOPIC``."""

from __future__ import annotations

import os
import sys
import threading
import time

from hbshim import messaging


class Endpoint:
    """Says what it does, in lines."""

    def hold(self, _request: messaging.Request) -> None:
        print("holding", flush=True)  # noqa: T201 - the test reads it
        threading.Event().wait()

    def fork(self, _request: messaging.Request) -> int:
        """Leave a child behind; return its process id."""
        child = os.fork()
        if not child:
            # What the test reads ends with this process, and not with its child.
            for descriptor in (0, 1, 2):
                os.close(descriptor)
            time.sleep(600)
            os._exit(0)
        return child

    def info(self, _notification: messaging.Notification) -> None:
        print("handling", flush=True)  # noqa: T201 - the test reads it
        threading.Event().wait()

    def echo(self, _request: messaging.Request, value: object) -> object:
        return value


def main(url: str, ipc: str, topic: str) -> None:
    driver = messaging.connect(url, rpc_zmq_ipc_dir=ipc)
    server = messaging.Server(driver, messaging.Target(topic), [Endpoint()], workers=2)
    listener = messaging.NotificationServer(driver, [topic], [Endpoint()], pool="pool")
    assert server.start(30)
    assert listener.start(30)
    print("started", flush=True)  # noqa: T201 - the test reads it
    sys.stdin.read()


main(*sys.argv[1:])
