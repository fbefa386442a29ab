"""A client of a router on hbshim's engine."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import time
from typing import Any

from hbshim.amqp1.connection import Connection
from hbshim.amqp1.delivery import Delivery
from hbshim.amqp1.events import (
    Attached,
    Closed,
    CreditChanged,
    Detached,
    Drained,
    LoginRefused,
    Opened,
    Received,
)
from hbshim.amqp1.link import Link
from hbshim.amqp1.mechanisms import Anonymous, Plain
from hbshim.amqp1.messages import Data, Message, Single, decode_message, encode_message
from hbshim.amqp1.performatives import (
    MIXED,
    SETTLED,
    Accepted,
    Error,
    Header,
    Modified,
    Properties,
    Rejected,
    Released,
    Source,
    Target,
)
from hbshim.amqp1.receiver import Receiver
from hbshim.amqp1.sasl import SaslClient
from hbshim.amqp1.sender import Sender
from hbshim.amqp1.session import Session
from tests.amqp1.driver import LIMIT, Driver

STATES: dict[str, Any] = {
    "accepted": Accepted(),
    "released": Released(),
    "modified": Modified(delivery_failed=True),
    "rejected": Rejected(Error("hbshim:test", "not wanted")),
}
#: Seconds that a snapshot waits for what arrives.
_PAUSE = 0.01


class EngineBackend:
    """A connection; what arrives is handled when it is asked for."""

    def __init__(self) -> None:
        self._driver: Driver | None = None
        self._session: Session | None = None
        self._links: dict[str, Link] = {}
        self._deliveries: dict[int, tuple[Link, Delivery]] = {}
        self._connection: dict[str, Any] = {"open": False, "closed": False, "error": None}
        self._status: dict[str, dict[str, Any]] = {}
        self._received: list[dict[str, Any]] = []

    def do(self, command: str, **arguments: Any) -> Any:
        result = getattr(self, f"_{command}")(**arguments)
        self._flush()
        return result

    def snapshot(self) -> dict[str, Any]:
        self._step(_PAUSE)
        sent = {str(each): self._sent(each) for each in self._deliveries if each > 0}
        for name, link in self._links.items():
            self._status[name]["credit"] = link.credit
        return {
            "connection": self._connection,
            "links": self._status,
            "sent": sent,
            "received": [self._arrived(each) for each in self._received],
        }

    def end(self) -> None:
        if self._driver is not None:
            self._driver.sock.close()

    # Commands.

    def _connect(
        self,
        port: int,
        user: str | None = None,
        password: str = "",
        hostname: str | None = None,
        ca: str | None = None,
        login: bool = True,
        **options: Any,
    ) -> None:
        mechanism = Anonymous() if user is None else Plain(user, password)
        sasl = SaslClient([mechanism], hostname) if login else None
        connection = Connection("engine", hostname=hostname, sasl=sasl, **options)
        sock = socket.create_connection(("127.0.0.1", port), LIMIT)
        if ca is not None:
            context = ssl.create_default_context(cafile=ca)
            sock = context.wrap_socket(sock, server_hostname="localhost")
        self._driver = Driver(sock, connection)

    def _sender(self, name: str, address: str | None) -> None:
        assert self._session is not None
        self._add(self._session.attach_sender(name, Target(address)))

    def _receiver(self, name: str, address: str | None, credit: int, settled: bool = False) -> None:
        assert self._session is not None
        source = Source(dynamic=True) if address is None else Source(address)
        mode = SETTLED if settled else MIXED
        link = self._session.attach_receiver(name, source, snd_settle_mode=mode)
        link.grant(credit)
        self._add(link)

    def _add(self, link: Link) -> None:
        self._links[link.name] = link
        status = {"open": False, "closed": False, "error": None, "drains": 0, "address": None}
        self._status[link.name] = status

    def _send(
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
        sender = self._links[link]
        assert isinstance(sender, Sender)
        content: Any = Data((body.encode(),))
        if properties is not None:
            content = Single(json.loads(body))
        message = Message(
            content,
            header=Header(ttl=ttl),
            properties=Properties(to=to, reply_to=reply_to),
            application_properties=properties,
        )
        self._deliveries[number] = sender, sender.send(encode_message(message), settled=settled)

    def _settle(self, number: int) -> None:
        link, delivery = self._deliveries[number]
        link.settle(delivery)

    def _answer(self, number: int, state: str, settled: bool) -> None:
        link, delivery = self._deliveries[number]
        if settled:
            link.settle(delivery, STATES[state])
        else:
            link.update(delivery, STATES[state])

    def _grant(self, link: str, credit: int) -> None:
        self._receiver_link(link).grant(credit)

    def _drain(self, link: str) -> None:
        self._receiver_link(link).drain()

    def _detach(self, link: str) -> None:
        self._links[link].detach()

    def _silence(self, seconds: float) -> None:
        time.sleep(seconds)

    def _receiver_link(self, name: str) -> Receiver:
        link = self._links[name]
        assert isinstance(link, Receiver)
        return link

    # Events.

    def _step(self, limit: float) -> None:
        driver = self._driver
        if driver is None or driver.connection.closed or driver.sock.fileno() < 0:
            return
        driver.step(limit)
        events, driver.events = driver.events, []
        for event in events:
            self._handle(event)
        self._flush()

    def _flush(self) -> None:
        if self._driver is not None:
            with contextlib.suppress(OSError):
                self._driver.flush()

    def _handle(self, event: Any) -> None:
        if isinstance(event, Opened):
            assert self._driver is not None
            self._connection.update(
                product=(event.remote.properties or {}).get("product"),
                idle=event.remote.idle_time_out,
                frame=event.remote.max_frame_size,
            )
            self._connection["open"] = True
            if not self._driver.connection.closed:
                self._session = self._driver.connection.begin()
        elif isinstance(event, Closed):
            error = event.error and [event.error.condition, event.error.description]
            self._connection.update(closed=True, error=error)
        elif isinstance(event, LoginRefused):
            self._connection.update(closed=True, error=["login", event.reason])
        elif isinstance(event, (Attached, Detached, CreditChanged, Drained, Received)):
            self._handle_of_link(event)

    def _handle_of_link(self, event: Any) -> None:
        status = self._status[event.link.name]
        if isinstance(event, Attached):
            source = event.link.remote and event.link.remote.source
            status.update(open=True, address=source and source.address)
        elif isinstance(event, Detached):
            error = event.error and [event.error.condition, event.error.description]
            status.update(closed=True, error=error)
        elif isinstance(event, CreditChanged) and event.drain:
            status["drains"] += 1
            event.link.drained()
        elif isinstance(event, Drained):
            status["drains"] += 1
        elif isinstance(event, Received):
            number = -len(self._received) - 1
            self._deliveries[number] = event.link, event.delivery
            self._received.append({"number": number, "link": event.link.name})

    def _sent(self, number: int) -> dict[str, Any]:
        delivery = self._deliveries[number][1]
        state: Any = delivery.state
        error = state.error if isinstance(state, Rejected) else None
        return {
            "state": _name(state),
            "settled": delivery.settled,
            "failed": isinstance(state, Modified) and state.delivery_failed,
            "error": error and [error.condition, error.description],
        }

    def _arrived(self, found: dict[str, Any]) -> dict[str, Any]:
        delivery = self._deliveries[found["number"]][1]
        message = decode_message(delivery.payload)
        body: Any = message.body
        text = json.dumps(body.value) if isinstance(body, Single) else body.content.decode()
        return {
            **found,
            "body": text,
            "settled": delivery.settled,
            "state": _name(delivery.state),
            "reply_to": message.properties and message.properties.reply_to,
            "status": (message.application_properties or {}).get("statusCode"),
        }


def _name(state: Any) -> str | None:
    return None if state is None else type(state).__name__.lower()
