"""What the tests of connections do to them."""

from __future__ import annotations

import threading
from typing import Any

from hbshim.messaging.amqp.connection import Connection
from hbshim.protocol.messages import Message
from tests.messaging.conftest import LIMIT


def message(queue: str, body: bytes = b"body", **properties: Any) -> Message:
    """A message that goes into `queue`."""
    return Message(body, "", queue, **properties)


class Drainer(threading.Thread):
    """Drains once, for long, in a thread of the program's own kind.

    Attributes:
        error: what ended it.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__(daemon=True)
        self.connection = connection
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.connection.drain(2 * LIMIT)
        except Exception as error:
            self.error = error

    def ends(self) -> bool:
        """Whether it ends, long before its time."""
        self.join(LIMIT)
        return not self.is_alive()
