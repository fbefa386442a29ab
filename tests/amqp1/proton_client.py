"""A client on qpid-proton, which blocks: ``proton_client.py PORT [USER PASSWORD]``.

Reads commands, one a line, as JSON, and writes one line with the result of each.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from proton import Delivery, Message, ProtonException
from proton.utils import BlockingConnection, LinkDetached, SendException

NAMES = {
    Delivery.ACCEPTED: "ACCEPTED",
    Delivery.REJECTED: "REJECTED",
    Delivery.RELEASED: "RELEASED",
    Delivery.MODIFIED: "MODIFIED",
}


class Client:
    """The commands that it gets."""

    def __init__(self, port: str, user: str | None, password: str | None) -> None:
        options: dict[str, Any] = {}
        if user is not None:
            options = {"user": user, "password": password, "allow_insecure_mechs": True}
        if user == "nobody":
            options = {"sasl_enabled": False}
        url = f"amqp://127.0.0.1:{port}"
        self.connection = BlockingConnection(url, timeout=20, heartbeat=2, **options)
        self.receivers: dict[str, Any] = {}

    def send(self, address: str, size: int) -> str:
        """Send a message; return its outcome."""
        sender = self.connection.create_sender(address)
        try:
            return NAMES[sender.send(Message(body=b"x" * size, id="an-id")).remote_state]
        except SendException as error:
            return NAMES[error.state]
        finally:
            sender.close()

    def receive(self, address: str, outcome: str) -> list[Any]:
        """Receive a message; return its size, its id, and whether it was delivered before."""
        if address not in self.receivers:
            self.receivers[address] = self.connection.create_receiver(address, credit=1)
        receiver = self.receivers[address]
        message = receiver.receive(timeout=20)
        if outcome == "release":
            receiver.release(delivered=True)
        else:
            getattr(receiver, outcome)()
        return [len(message.body), message.id, message.delivery_count]

    def pause(self, seconds: float) -> str:
        """Stay connected without a message, as proton does while a caller waits in it."""
        ends = time.monotonic() + seconds
        self.connection.wait(lambda: time.monotonic() > ends, timeout=seconds + 10)
        return "connected"

    def close(self) -> str:
        self.connection.close()
        return "closed"


def main() -> None:
    arguments = [*sys.argv[1:], None, None][:3]
    try:
        client = Client(str(arguments[0]), arguments[1], arguments[2])
    except ProtonException as error:
        sys.stdout.write(f"{json.dumps(f'refused: {error}')}\n")
        return
    sys.stdout.write('"connected"\n')
    sys.stdout.flush()
    for line in sys.stdin:
        name, *values = json.loads(line)
        try:
            result = getattr(client, name)(*values)
        except LinkDetached as error:
            result = f"detached: {error.condition}"
        sys.stdout.write(f"{json.dumps(result)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
