"""The engine on a blocking socket: the least that a test with a real peer needs."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar

from hbshim.amqp1.connection import Connection
from hbshim.amqp1.delivery import Delivery
from hbshim.amqp1.events import (
    Attached,
    AttachRequested,
    Begun,
    Closed,
    CreditChanged,
    LoginRefused,
    Opened,
    Updated,
)
from hbshim.amqp1.messages import Data, Message, decode_message, encode_message
from hbshim.amqp1.performatives import Source, Target
from hbshim.amqp1.receiver import Receiver
from hbshim.amqp1.sender import Sender
from hbshim.amqp1.session import Session

E = TypeVar("E")

#: Seconds after which what hangs ends.
LIMIT = 30.0


class Driver:
    """A connection on a socket.

    Attributes:
        events: those that no `wait_for()` has taken yet.
        keeps_alive: empty frames are sent when they are due, and a silent peer is found.
    """

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        self.sock = sock
        self.connection = connection
        self.events: list[Any] = []
        self.keeps_alive = True
        self.on_attach: Callable[[AttachRequested], None] = lambda event: event.link.accept()

    @classmethod
    def connect(cls, address: tuple[str, int], connection: Connection) -> Driver:
        return cls(socket.create_connection(address, LIMIT), connection)

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def flush(self) -> None:
        """Send what is to be sent."""
        data = self.connection.data_to_send(time.monotonic())
        if data:
            self.sock.sendall(data)

    def step(self, limit: float) -> None:
        """Send, and wait for what arrives or is due, for `limit` seconds at most."""
        self.flush()
        now = time.monotonic()
        pause = self.connection.next_check(now) if self.keeps_alive else None
        self.sock.settimeout(max(0.001, limit if pause is None else min(pause, limit)))
        try:
            data = self.sock.recv(1 << 18)
        except TimeoutError:
            data = None
        except OSError:
            data = b""
        now = time.monotonic()
        if data is not None:
            self.events += self.connection.receive_data(data, now)
        if self.keeps_alive:
            self.events += self.connection.check(now)
        for event in self.events:
            if isinstance(event, AttachRequested):
                self.on_attach(event)
        self.events = [each for each in self.events if not isinstance(each, AttachRequested)]
        # What the peer sent before it closed is in the receive queue still.
        with contextlib.suppress(OSError):
            self.flush()

    def run(self, seconds: float) -> None:
        """Handle what happens in this time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self.connection.closed:
            self.step(left)

    def wait_for(self, *kinds: type[E], where: Callable[[E], object] = lambda event: True) -> E:
        """Return the next event of these types, which it takes from the events."""
        end = time.monotonic() + LIMIT
        while True:
            for event in self.events:
                if isinstance(event, kinds) and where(event):
                    self.events.remove(event)
                    return event
            ended = [each for each in self.events if isinstance(each, (Closed, LoginRefused))]
            assert not ended, f"{ended} while waiting for {kinds}"
            left = end - time.monotonic()
            assert left > 0, f"no {kinds} within {LIMIT} s; there are {self.events}"
            self.step(left)

    def open(self) -> Opened:
        return self.wait_for(Opened)

    def begin(self) -> Session:
        session = self.connection.begin()
        self.wait_for(Begun)
        return session

    def sender(self, session: Session, target: Target, **options: Any) -> Sender:
        """A sender with credit."""
        link = session.attach_sender(options.pop("name", "sender"), target, **options)
        self.wait_for(Attached, where=lambda event: event.link is link)
        self.wait_for(CreditChanged, where=lambda event: event.link is link and event.credit)
        return link

    def receiver(self, session: Session, source: Source, credit: int, **options: Any) -> Receiver:
        link = session.attach_receiver(options.pop("name", "receiver"), source, **options)
        link.grant(credit)
        self.wait_for(Attached, where=lambda event: event.link is link)
        return link

    def outcome(self, delivery: Any) -> Any:
        """What the peer has made of a delivery."""
        self.wait_for(Updated, where=lambda event: event.delivery is delivery)
        return delivery.state

    def close(self) -> None:
        """Close the connection, and wait for the peer's answer."""
        self.connection.close()
        self.wait_for(Closed)


def message(body: bytes, **fields: Any) -> bytes:
    """An encoded message; the fields are those of `Message`."""
    return encode_message(Message(Data((body,)), **fields))


def content(delivery: Delivery) -> bytes:
    """The body of a message that has arrived."""
    body = decode_message(delivery.payload).body
    assert isinstance(body, Data)
    return body.content
