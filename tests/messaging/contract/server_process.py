"""A server that begins a request and never ends it.

``python -m tests.messaging.contract.server_process TOPIC before|after``; the driver's URL is in
the environment variable ``URL``.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Literal

from hbshim import messaging

#: Seconds for what takes none; the machine may be busy.
LIMIT = 30


class Endpoint:
    """Prints a line as it begins a request."""

    def echo(self, _request: messaging.Request, **_arguments: object) -> None:
        print("begun", flush=True)  # noqa: T201 - the test reads it
        threading.Event().wait()


def main(topic: str, acknowledge: Literal["before", "after"]) -> None:
    driver = messaging.connect(os.environ["URL"])
    server = messaging.Server(
        driver, messaging.Target(topic), [Endpoint()], acknowledge=acknowledge
    )
    assert server.start(LIMIT)
    print("started", flush=True)  # noqa: T201 - the test reads it
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])  # type: ignore[arg-type]
