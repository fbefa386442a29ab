"""A server on the engine, for clients of other authors.

Its addresses are those of proton_server.py.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

from hbshim.amqp1.connection import Connection
from hbshim.amqp1.events import AttachRequested, CreditChanged, Received, Updated
from hbshim.amqp1.performatives import (
    Accepted,
    Error,
    Modified,
    Rejected,
    Released,
    Target,
)
from hbshim.amqp1.receiver import Receiver
from hbshim.amqp1.sender import Sender
from tests.amqp1.driver import Driver

OUTCOMES: dict[str, Any] = {
    "reject": Rejected(Error("hbshim:test", "not wanted")),
    "release": Released(),
    "modify": Modified(delivery_failed=True),
}


class Store:
    """Serves connections, each in a thread.

    Attributes:
        port: where it listens.
        settled: what its receivers said about the messages that it gave out.
    """

    def __init__(self, make: Callable[[], Connection], credit: int) -> None:
        self._make = make
        self._credit = credit
        self._queues: defaultdict[str, deque[bytes]] = defaultdict(deque)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._ending = False
        self._threads = [threading.Thread(target=self._accept)]
        self.port = self._listening.getsockname()[1]
        self.settled: list[Any] = []

    def start(self) -> None:
        self._threads[0].start()

    def stop(self) -> None:
        self._ending = True
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(20)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listening.accept()
                thread = threading.Thread(target=self._serve, args=(sock,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with Driver(sock, self._make()) as driver:
            given: dict[int, bytes] = {}
            driver.on_attach = self._attach
            while not driver.connection.closed and not self._ending:
                driver.step(0.2)
                for event in driver.events:
                    self._handle(event, given)
                driver.events.clear()
                with contextlib.suppress(OSError):
                    driver.flush()

    def _attach(self, event: AttachRequested) -> None:
        link = event.link
        remote = link.remote
        assert remote is not None
        terminus: Any = remote.target if isinstance(link, Receiver) else remote.source
        if terminus.address == "refused":
            link.refuse(Error("amqp:not-found", "no such address"))
            return
        link.accept()
        if isinstance(link, Receiver):
            link.grant(self._credit)
        else:
            self._give_out(link)

    def _handle(self, event: Any, given: dict[int, bytes]) -> None:
        if isinstance(event, Received):
            link = event.link
            assert isinstance(link.local.target, Target)
            outcome = OUTCOMES.get(str(link.local.target.address))
            if outcome is None:
                self._queues[str(link.local.target.address)].append(event.delivery.payload)
            if not event.delivery.settled:
                link.settle(event.delivery, outcome or Accepted())
            link.grant(1)
        elif isinstance(event, CreditChanged):
            self._give_out(event.link)
            if event.drain:
                event.link.drained()
        elif isinstance(event, Updated) and isinstance(event.link, Sender):
            self.settled.append(event.delivery.state)
            if not event.delivery.settled:
                event.link.settle(event.delivery)

    def _give_out(self, link: Sender | Any) -> None:
        assert link.local.source is not None
        queue = self._queues[str(link.local.source.address)]
        while queue and link.credit:
            link.send(queue.popleft())


@contextlib.contextmanager
def serving(make: Callable[[], Connection], credit: int = 10) -> Iterator[Store]:
    """A server whose connections are made by `make`."""
    store = Store(make, credit)
    store.start()
    try:
        yield store
    finally:
        store.stop()
