"""A server that begins a request and never ends it: ``serving.py TOPIC before|after``."""

import os
import sys
import threading

from hbshim import messaging


class Endpoint:
    """Says what it does, in lines."""

    def echo(self, _request: messaging.Request, **_arguments: object) -> None:
        print("begun", flush=True)  # noqa: T201 - the test reads it
        threading.Event().wait()


def main(topic: str, acknowledge: str) -> None:
    driver = messaging.connect(os.environ["URL"], rpc_queue_expiration=30, socket_timeout=30)
    server = messaging.Server(
        driver, messaging.Target(topic), [Endpoint()], acknowledge=acknowledge
    )
    assert server.start(30)
    print("started", flush=True)  # noqa: T201 - the test reads it
    threading.Event().wait()


main(*sys.argv[1:])
