"""Receives what the cells send through a router; runs in its own container.

    python -m wsgi_harness.cell.sink HOST:PORT ADDRESS [ADDRESS ...]

A router stores nothing. This prints each message as a line of JSON, and a line when every address
is served.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from proton.handlers import MessagingHandler
from proton.reactor import Container

from wsgi_harness.cell.reaching import wait_for

#: Printed when every address is served.
SERVING = "serving"
_CREDIT = 100


class Sink(MessagingHandler):  # type: ignore[misc]
    """Accepts and prints every message.

    Parameters:
        router: its URL.
        addresses: what it receives from.
    """

    def __init__(self, router: str, addresses: list[str]) -> None:
        super().__init__(prefetch=_CREDIT)
        self._router = router
        self._addresses = addresses
        self._opened = 0

    def on_start(self, event: Any) -> None:
        """Connect; proton connects again if it is interrupted."""
        connection = event.container.connect(self._router, allowed_mechs="ANONYMOUS")
        for address in self._addresses:
            event.container.create_receiver(connection, address)

    def on_link_opened(self, _event: Any) -> None:
        """Report when it is the last one."""
        self._opened += 1
        if self._opened == len(self._addresses):
            _say(SERVING)

    def on_message(self, event: Any) -> None:
        """Print it."""
        body = event.message.body
        text = body.decode() if isinstance(body, bytes) else str(body)
        _say(json.dumps({"address": event.receiver.source.address, "body": text}))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Receive until the process is ended."""
    host, _, port = sys.argv[1].rpartition(":")
    wait_for(host, int(port))
    Container(Sink(f"amqp://{sys.argv[1]}", sys.argv[2:])).run()


if __name__ == "__main__":
    main()
