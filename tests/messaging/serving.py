"""A server that begins a request and never ends it: ``serving.py TOPIC before|after``."""

import os
import sys
import threading

from hbshim import messaging

ON_A_BUSY_MACHINE = {"socket_timeout": 30, "handshake_timeout": 30}


class Endpoint:
    """Says what it does, in lines."""

    def echo(self, _request: messaging.Request, **_arguments: object) -> None:
        print("begun", flush=True)  # noqa: T201 - the test reads it
        threading.Event().wait()


def main(topic: str, acknowledge: str) -> None:
    driver = messaging.connect(os.environ["URL"], rpc_queue_expiration=30, **ON_A_BUSY_MACHINE)
    server = messaging.Server(
        driver, messaging.Target(topic), [Endpoint()], acknowledge=acknowledge
    )
    assert server.start(30)
    print("started", flush=True)  # noqa: T201 - the test reads it
    threading.Event().wait()


main(*sys.argv[1:])
