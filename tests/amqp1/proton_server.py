"""A server on qpid-proton; writes its port. What it does depends on the address.

`queue...` keeps messages and gives them out; `reject`, `release` and `modify` do that to each
message; `refused` is refused; `closed` closes the connection.
"""

from __future__ import annotations

import socket
import sys
from collections import defaultdict, deque
from typing import Any

from proton import Condition, Delivery, Endpoint, Handler, Terminus
from proton.handlers import MessagingHandler
from proton.reactor import Container

OUTCOMES = {
    "reject": Delivery.REJECTED,
    "release": Delivery.RELEASED,
    "modify": Delivery.MODIFIED,
}


class Closing(Handler):  # type: ignore[misc]
    """Closes a link."""

    def __init__(self, link: Any) -> None:
        super().__init__()
        self.link = link

    def on_timer_task(self, event: Any) -> None:
        self.link.close()


class Server(MessagingHandler):  # type: ignore[misc]
    """Keeps messages in memory."""

    def __init__(self, port: int, credit: int) -> None:
        super().__init__(prefetch=credit, auto_accept=False, auto_settle=False)
        self.address = f"127.0.0.1:{port}"
        self.queues: defaultdict[str, deque[Any]] = defaultdict(deque)
        self.senders: list[Any] = []

    def on_start(self, event: Any) -> None:
        event.container.listen(self.address)
        sys.stdout.write("ready\n")
        sys.stdout.flush()

    def on_link_opening(self, event: Any) -> None:
        link = event.link
        address = link.remote_source.address if link.is_sender else link.remote_target.address
        if address == "refused":
            # proton opens it when this method returns; without a terminus, it is refused.
            link.source.type = link.target.type = Terminus.UNSPECIFIED
            link.condition = Condition("amqp:not-found", "no such address")
            event.container.schedule(0, Closing(link))
            return
        if address == "closed":
            event.connection.condition = Condition("amqp:connection:forced", "as asked for")
            event.connection.close()
            return
        link.source.address = link.remote_source.address
        link.target.address = link.remote_target.address
        if link.is_sender:
            self.senders.append(link)

    def on_message(self, event: Any) -> None:
        address = event.link.remote_target.address or event.message.address
        outcome = OUTCOMES.get(address)
        if outcome is not None:
            event.delivery.update(outcome)
            event.delivery.settle()
            return
        self.queues[address].append(event.message)
        event.delivery.update(Delivery.ACCEPTED)
        event.delivery.settle()
        self.give_out()

    def on_sendable(self, event: Any) -> None:
        self.give_out()

    def on_settled(self, event: Any) -> None:
        if event.delivery.remote_state in (Delivery.RELEASED, Delivery.MODIFIED):
            self.queues[event.link.source.address].appendleft(event.delivery.given)
        event.delivery.settle()
        self.give_out()

    def give_out(self) -> None:
        for sender in self.senders:
            if not sender.state & Endpoint.LOCAL_ACTIVE:
                continue
            queue = self.queues[sender.source.address]
            while queue and sender.credit:
                message = queue.popleft()
                sender.send(message).given = message
            sender.drained()


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        port = chosen.getsockname()[1]
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    container = Container(Server(port, int(sys.argv[1])))
    container.run()


if __name__ == "__main__":
    main()
