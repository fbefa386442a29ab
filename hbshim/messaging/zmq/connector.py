"""Connects a socket of a client to proxies, and finds out why one refuses.

With CURVE each connection expects the key of its proxy. ZeroMQ gives up permanently after most
handshakes that fail, and repeats the others twenty times a second; so the connection is made anew,
after growing pauses, with the keys that are known by then.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import zmq

from hbshim.messaging.zmq.curve import ServerKeys
from hbshim.messaging.zmq.directory import HostRecord, Pipeline
from hbshim.messaging.zmq.loop import Loop
from hbshim.messaging.zmq.outcomes import Outcome
from hbshim.messaging.zmq.places import Places

if TYPE_CHECKING:
    from hbshim.metrics import Metrics

#: Seconds of the first and of the longest pause before a connection that was refused is made again.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0

_EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)

#: Handshakes in a row that a proxy ends without a reason, until it counts as one that refuses.
#: A proxy that is stopped just then does so once.
_ENDED_HANDSHAKES = 3

#: Values of EVENT_HANDSHAKE_FAILED_PROTOCOL: one side has CURVE on; a key that does not fit.
_MECHANISMS_DIFFER, _CANNOT_DECRYPT = 0x11000002, 0x11000001


@dataclass(eq=False)
class _Link:
    """A connection.

    Attributes:
        untried: keys that the proxy may have, of those known when the first was tried.
        waits: it was refused, and is made again later.
        ended: handshakes in a row that the proxy ended without a reason.
        pause: seconds until it is made again, once it is refused.
        refusal: why it was refused; None: it was not.
    """

    record: HostRecord
    untried: list[bytes] = field(default_factory=list)
    waits: bool = False
    ended: int = 0
    pause: float = FIRST_PAUSE
    refusal: Outcome | None = None


class Connector:
    """See the module. It belongs to the I/O thread.

    Parameters:
        socket: not connected yet.
        server_keys: the keys of the proxies; None: without CURVE.
        on_refused: called with the address of a proxy, and why it refuses.
        on_connected: called when a handshake has succeeded.
    """

    def __init__(
        self,
        loop: Loop,
        socket: zmq.Socket[bytes],
        pipeline: Pipeline,
        server_keys: ServerKeys | None,
        metrics: Metrics,
        on_refused: Callable[[str, Outcome], None],
        on_connected: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop = loop
        self._socket = socket
        self._pipeline = pipeline
        self._server_keys = server_keys
        self._metrics = metrics
        self._on_refused = on_refused
        self._on_connected = on_connected
        self._places = Places(loop)
        self._links: dict[str, _Link] = {}
        self._has_one = True
        loop.monitor(socket, _EVENTS, self._on_event)

    def connect(self, record: HostRecord) -> bool:
        """Connect to the proxy of a host; return False if its address cannot be used."""
        address = record.addresses.get(self._pipeline, "")
        link = _Link(record)
        try:
            self._dial(address, link)
        except zmq.ZMQError as error:
            self._metrics.record("zmq-bad-address", record.host or address, str(error))
            return False
        self._has_one = self._has_one and self._links.keys() <= {address}
        self._links[address] = link
        return True

    def update(self, record: HostRecord) -> None:
        """Note the directory's current record of a host that is connected: the key may be new."""
        link = self._links.get(record.addresses.get(self._pipeline, ""))
        if link is not None:
            link.record = record

    def disconnect(self, address: str) -> None:
        """Undo :meth:`connect`."""
        # What is reported later may be about this one.
        self._has_one = False
        self._links.pop(address, None)
        # It is not connected while it waits.
        with contextlib.suppress(zmq.ZMQError):
            self._socket.disconnect(address)

    def _dial(self, address: str, link: _Link) -> None:
        if self._server_keys is not None:
            if not link.untried:
                link.untried = list(self._server_keys.of(link.record, address))
            if not link.untried:
                # Later: the caller does not expect to be called back.
                self._loop.post(lambda: self._refused(address, link, Outcome.NO_KEY))
                return
            self._socket.set(zmq.CURVE_SERVERKEY, link.untried.pop(0))
        self._socket.connect(address)

    def _dial_again(self, address: str, link: _Link) -> None:
        if self._links.get(address) is not link or self._socket.closed:
            return
        link.waits = False
        try:
            self._dial(address, link)
        except zmq.ZMQError as error:
            self._metrics.record("zmq-bad-address", link.record.host or address, str(error))
            self._refused(address, link, Outcome.UNREACHABLE)

    def _on_event(self, event: int, value: int, address: str) -> None:
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._on_connected()
            # After a refusal, the address is the one that was given.
            if (link := self._links.get(address)) is not None:
                link.ended, link.pause = 0, FIRST_PAUSE
                link.refusal, link.untried = None, []
        elif address in self._links:
            self._on_failure(address, event, value)
        elif self._has_one:
            for known in list(self._links):
                self._on_failure(known, event, value)
        else:
            self._places.find(
                address, self._links, lambda known: self._on_failure(known, event, value)
            )

    def _on_failure(self, address: str, event: int, value: int) -> None:
        link = self._links.get(address)
        if link is None or link.waits:
            return  # of a connection that was ended
        if (why := self._reason(link, event, value)) is not None:
            self._refused(address, link, why)

    def _reason(self, link: _Link, event: int, value: int) -> Outcome | None:
        """Return why a handshake failed; None: ZeroMQ tries again by itself, and it may succeed."""
        encrypted = self._server_keys is not None
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            return Outcome.NOT_ALLOWED
        if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            # A proxy sends nothing more to a client that expects another key.
            link.ended += value in (errno.EPIPE, errno.ECONNRESET)
            if link.ended < _ENDED_HANDSHAKES:
                return None
            return Outcome.WRONG_KEY if encrypted else Outcome.CURVE_THERE
        if value == _MECHANISMS_DIFFER:
            return Outcome.CURVE_HERE if encrypted else Outcome.CURVE_THERE
        return Outcome.WRONG_KEY if value == _CANNOT_DECRYPT else Outcome.FOREIGN

    def _refused(self, address: str, link: _Link, why: Outcome) -> None:
        if self._links.get(address) is not link or self._socket.closed:
            return
        with contextlib.suppress(zmq.ZMQError):
            self._socket.disconnect(address)
        link.waits, link.ended = True, 0
        if why is Outcome.WRONG_KEY and link.untried:
            self._loop.later(FIRST_PAUSE, lambda: self._dial_again(address, link))
            return
        # The next round begins with the first key again.
        link.untried = []
        pause, link.pause = link.pause, min(2 * link.pause, LONGEST_PAUSE)
        self._loop.later(pause, lambda: self._dial_again(address, link))
        self._metrics.count("zmq_connections_refused")
        if link.refusal is not why:
            link.refusal = why
            name = f"{link.record.host} at {address}" if link.record.host else address
            self._metrics.record("zmq-refused", name, why.value)
        self._on_refused(address, why)
