"""Clients of a router on qpid-proton; reads commands, one a line, as JSON, and answers each.

They stand on proton's own loop, and have nothing in common with the test router.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from typing import Any

from proton import Condition, Delivery, Endpoint, Handler, Link, Message, SSLDomain, Terminus
from proton.reactor import ApplicationEvent, Container, EventInjector, LinkOption

NAMES = {
    Delivery.ACCEPTED: "accepted",
    Delivery.RELEASED: "released",
    Delivery.MODIFIED: "modified",
    Delivery.REJECTED: "rejected",
}
STATES = {name: state for state, name in NAMES.items()}


class PreSettled(LinkOption):  # type: ignore[misc]
    """The other side sends its messages settled."""

    def apply(self, link: Any) -> None:
        link.snd_settle_mode = Link.SND_SETTLED


class Clients(Handler):  # type: ignore[misc]
    """The connections, by the numbers in the commands."""

    def __init__(self) -> None:
        super().__init__()
        self.injector = EventInjector()
        self.clients: dict[int, Client] = {}

    def on_reactor_init(self, event: Any) -> None:
        event.container.selectable(self.injector)
        threading.Thread(target=self.read, args=(event.container,), daemon=True).start()

    def read(self, container: Any) -> None:
        for line in sys.stdin:
            command = container, *json.loads(line)
            self.injector.trigger(ApplicationEvent("command", subject=command))

    def on_command(self, event: Any) -> None:
        container, number, name, arguments = event.subject
        if number not in self.clients:
            self.clients[number] = Client(container)
        result = getattr(self.clients[number], f"do_{name}")(**arguments)
        sys.stdout.write(f"{json.dumps(result)}\n")
        sys.stdout.flush()


class Client(Handler):  # type: ignore[misc]
    """A connection."""

    def __init__(self, container: Any) -> None:
        super().__init__()
        self.container = container
        self.connection: Any = None
        self.links: dict[str, Any] = {}
        self.sent: dict[int, Any] = {}
        self.arrived: list[dict[str, Any]] = []
        self.status: dict[str, Any] = {"open": False, "closed": False, "error": None}
        self.link_status: dict[str, dict[str, Any]] = {}
        self.sent_status: dict[str, dict[str, Any]] = {}

    # Commands.

    def do_connect(
        self,
        port: int,
        user: str | None = None,
        password: str = "",
        hostname: str | None = None,
        ca: str | None = None,
        login: bool = True,
        idle_timeout: float | None = None,
        max_frame_size: int = 65536,
    ) -> None:
        options: dict[str, Any] = {"allowed_mechs": "ANONYMOUS" if user is None else "PLAIN"}
        if user is not None:
            options.update(user=user, password=password, allow_insecure_mechs=True)
        if not login:
            options = {"sasl_enabled": False}
        scheme, host = "amqp", "127.0.0.1"
        if ca is not None:
            domain = SSLDomain(SSLDomain.MODE_CLIENT)
            domain.set_trusted_ca_db(ca)
            domain.set_peer_authentication(SSLDomain.VERIFY_PEER)
            options["ssl_domain"] = domain
            scheme, host = "amqps", "localhost"
        # proton advertises half of it.
        self.connection = self.container.connect(
            f"{scheme}://{host}:{port}",
            virtual_host=hostname or "",
            reconnect=False,
            handler=self,
            heartbeat=idle_timeout and 2 * idle_timeout,
            max_frame_size=max_frame_size,
            **options,
        )

    def do_sender(self, name: str, address: str | None) -> None:
        self.add(self.container.create_sender(self.connection, address, name=name))

    def do_receiver(
        self, name: str, address: str | None, credit: int, settled: bool = False
    ) -> None:
        options = [PreSettled()] if settled else []
        link = self.container.create_receiver(
            self.connection, address, name=name, dynamic=address is None, options=options
        )
        link.flow(credit)
        self.add(link)

    def add(self, link: Any) -> None:
        self.links[link.name] = link
        status = {"open": False, "closed": False, "error": None, "drains": 0, "address": None}
        self.link_status[link.name] = status

    def do_send(
        self,
        link: str,
        number: int,
        body: str,
        to: str | None = None,
        reply_to: str | None = None,
        settled: bool = False,
        ttl: int | None = None,
        properties: dict[str, Any] | None = None,
    ) -> None:
        message = Message(address=to, reply_to=reply_to, properties=properties)
        message.body = json.loads(body) if properties is not None else body.encode()
        message.inferred = properties is None
        if ttl is not None:
            message.ttl = ttl / 1000
        delivery = self.links[link].send(message)
        delivery.number = number
        self.sent[number] = delivery
        state = {"state": None, "settled": settled, "failed": False, "error": None}
        self.sent_status[str(number)] = state
        if settled:
            delivery.settle()

    def do_settle(self, number: int) -> None:
        self.sent[number].settle()
        self.sent_status[str(number)]["settled"] = True

    def do_answer(self, number: int, state: str, settled: bool) -> None:
        delivery = self.arrived[number]["delivery"]
        delivery.local.failed = state == "modified"
        if state == "rejected":
            delivery.local.condition = Condition("hbshim:test", "not wanted")
        delivery.update(STATES[state])
        if settled:
            delivery.settle()
            self.arrived[number]["settled"] = True

    def do_grant(self, link: str, credit: int) -> None:
        self.links[link].flow(credit)

    def do_drain(self, link: str) -> None:
        self.links[link].drain(0)

    def do_detach(self, link: str) -> None:
        self.links[link].close()

    def do_silence(self, seconds: float) -> None:
        time.sleep(seconds)

    def do_snapshot(self) -> dict[str, Any]:
        for name, link in self.links.items():
            self.link_status[name]["credit"] = link.credit
        arrived = [
            {"number": number, **{key: each[key] for key in each if key != "delivery"}}
            for number, each in enumerate(self.arrived)
        ]
        return {
            "connection": self.status,
            "links": self.link_status,
            "sent": self.sent_status,
            "received": arrived,
        }

    def do_end(self) -> None:
        """End the connection without a word, as a process that dies does."""
        transport = self.connection and self.connection.transport
        selectable = transport and transport._selectable
        if selectable and selectable.fileno() >= 0:
            selectable._delegate.shutdown(socket.SHUT_RDWR)

    # Events.

    def on_connection_remote_open(self, event: Any) -> None:
        transport = event.transport
        properties = event.connection.remote_properties or {}
        self.status.update(
            open=True,
            product=properties.get("product"),
            idle=round(transport.remote_idle_timeout * 1000),
            frame=transport.remote_max_frame_size,
        )

    def on_connection_remote_close(self, event: Any) -> None:
        self.end(event.connection.remote_condition)
        event.connection.close()

    def on_transport_error(self, event: Any) -> None:
        self.end(event.transport.condition)

    def on_transport_closed(self, event: Any) -> None:
        self.end(None)

    def end(self, condition: Any) -> None:
        if not self.status["closed"]:
            error = condition and [condition.name, condition.description]
            self.status.update(closed=True, error=error)

    def on_link_remote_open(self, event: Any) -> None:
        link = event.link
        terminus = link.remote_source if link.is_receiver else link.remote_target
        # Without a terminus, the link is refused, and its end follows.
        opened = terminus.type != Terminus.UNSPECIFIED
        self.link_status[link.name].update(open=opened, address=link.remote_source.address)

    def on_link_remote_close(self, event: Any) -> None:
        condition = event.link.remote_condition
        error = condition and [condition.name, condition.description]
        self.link_status[event.link.name].update(closed=True, error=error)
        if event.link.state & Endpoint.LOCAL_ACTIVE:
            event.link.close()

    def on_link_flow(self, event: Any) -> None:
        link = event.link
        if link.is_sender and link.drain_mode:
            self.link_status[link.name]["drains"] += 1
            link.drained()
            # proton forgets it if a delivery is settled before it has written the flow.
            event.transport.pending()
        elif link.is_receiver and link.drain_mode and not link.credit:
            self.link_status[link.name]["drains"] += 1
            link.drain_mode = False

    def on_delivery(self, event: Any) -> None:
        delivery, link = event.delivery, event.link
        number = getattr(delivery, "number", None)
        if number is None:
            if link.is_receiver and delivery.readable and not delivery.partial:
                self.receive(link, delivery)
        elif link.is_receiver:
            arrived = self.arrived[number]
            arrived["state"] = NAMES.get(delivery.remote_state)
            arrived["settled"] |= delivery.settled
        else:
            status = self.sent_status[str(number)]
            condition = delivery.remote.condition
            status.update(
                state=NAMES.get(delivery.remote_state),
                settled=status["settled"] or delivery.settled,
                failed=delivery.remote.failed,
                error=condition and [condition.name, condition.description],
            )
            if delivery.settled:
                delivery.settle()

    def receive(self, link: Any, delivery: Any) -> None:
        message = Message()
        message.decode(link.recv(delivery.pending))
        link.advance()
        body = message.body
        delivery.number = len(self.arrived)
        self.arrived.append(
            {
                "delivery": delivery,
                "link": link.name,
                "body": json.dumps(body) if isinstance(body, dict) else bytes(body).decode(),
                "settled": delivery.settled,
                "state": NAMES.get(delivery.remote_state),
                "reply_to": message.reply_to,
                "status": (message.properties or {}).get("statusCode"),
            }
        )


def main() -> None:
    container = Container(Clients())
    container.container_id = "proton"
    container.run()


if __name__ == "__main__":
    main()
