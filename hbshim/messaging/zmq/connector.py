"""Connects a socket of a client to proxies, and finds out why one refuses.

With CURVE each connection expects the key of its proxy. ZeroMQ gives up permanently after most
handshakes that fail, and repeats the others twenty times a second; so the connection is made anew,
after growing pauses, with the keys that are known by then.

ZeroMQ gets addresses in numbers alone; see :mod:`names`. A host that has several is tried at each
of them, and its name is looked up again where a connection is lost or cannot be made.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import zmq

from hbshim.messaging.zmq.curve import ServerKeys
from hbshim.messaging.zmq.directory import HostRecord, Pipeline
from hbshim.messaging.zmq.loop import Loop
from hbshim.messaging.zmq.outcomes import Outcome
from hbshim.messaging.zmq.places import address_at, name_in, place_of

if TYPE_CHECKING:
    from hbshim.metrics import Metrics

#: Seconds of the first and of the longest pause before a connection that was refused is made again.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0

#: Seconds from one lookup of a name to the next, at least.
LOOK_UP_EVERY = 1.0

_LOST = zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED

_EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | _LOST
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
        name: of the host, and the port, where they have to be looked up.
        endpoint: what the socket is connected to; empty: to nothing yet.
        endpoints: all that the name stands for.
        resolved_at: when that was looked up last, of ``time.monotonic()``.
        resolving: it is being looked up.
        up: a handshake has succeeded, and the connection was not lost since.
        untried: keys that the proxy may have, of those known when the first was tried.
        waits: it was refused, and is made again later.
        ended: handshakes in a row that the proxy ended without a reason.
        pause: seconds until it is made again, once it is refused.
        refusal: why it was refused; None: it was not.
    """

    record: HostRecord
    name: tuple[str, str] | None
    endpoint: str = ""
    endpoints: list[str] = field(default_factory=list)
    resolved_at: float = 0.0
    resolving: bool = False
    up: bool = False
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
        self._links: dict[str, _Link] = {}
        # The addresses whose links are connected to a place.
        self._at: dict[Hashable, dict[str, None]] = {}
        loop.monitor(socket, _EVENTS, self._on_event)

    def connect(self, record: HostRecord) -> bool:
        """Connect to the proxy of a host; return False if its address cannot be used."""
        address = record.addresses.get(self._pipeline, "")
        link = _Link(record, name_in(address))
        before = self._links.get(address)
        self._links[address] = link
        try:
            self._dial(address, link)
        except zmq.ZMQError as error:
            self._report_bad(address, link, str(error))
            del self._links[address]
            return False
        if before is not None and before.endpoint not in ("", link.endpoint):
            self._hang_up(address, before)
        return True

    def update(self, record: HostRecord) -> None:
        """Note the directory's current record of a host that is connected: the key may be new."""
        link = self._links.get(record.addresses.get(self._pipeline, ""))
        if link is not None:
            link.record = record

    def disconnect(self, address: str) -> None:
        """Undo :meth:`connect`."""
        link = self._links.pop(address, None)
        if link is not None:
            self._hang_up(address, link)

    def _dial(self, address: str, link: _Link) -> None:
        if link.name is None:
            self._open(address, link, address)
        else:
            self._look_up(address, link, failed=False)

    def _open(self, address: str, link: _Link, endpoint: str) -> None:
        if self._server_keys is not None:
            if not link.untried:
                link.untried = list(self._server_keys.of(link.record, address))
            if not link.untried:
                # Later: the caller does not expect to be called back.
                self._loop.post(lambda: self._refused(address, link, Outcome.NO_KEY))
                return
            self._socket.set(zmq.CURVE_SERVERKEY, link.untried.pop(0))
        there = self._at.setdefault(_place(endpoint), {})
        # Two names of one host share its connection: ZeroMQ would end both with one of them.
        if link.name is None or not there.keys() - {address}:
            self._socket.connect(endpoint)
        link.endpoint = endpoint
        there[address] = None

    def _hang_up(self, address: str, link: _Link) -> None:
        endpoint, link.endpoint, link.up = link.endpoint, "", False
        if not endpoint:
            return
        there = self._at.get(_place(endpoint), {})
        there.pop(address, None)
        if there:
            return
        self._at.pop(_place(endpoint), None)
        with contextlib.suppress(zmq.ZMQError):
            self._socket.disconnect(endpoint)

    def _dial_again(self, address: str, link: _Link) -> None:
        if self._is_over(address, link):
            return
        link.waits = False
        try:
            self._dial(address, link)
        except zmq.ZMQError as error:
            self._report_bad(address, link, str(error))
            self._refused(address, link, Outcome.UNREACHABLE)

    def _is_over(self, address: str, link: _Link) -> bool:
        return self._links.get(address) is not link or self._socket.closed

    def _report_bad(self, address: str, link: _Link, why: str) -> None:
        self._metrics.record("zmq-bad-address", link.record.host or address, why)

    # -- names of hosts ------------------------------------------------------

    def _look_up(self, address: str, link: _Link, *, failed: bool) -> None:
        """Look a name up, and connect to what it stands for.

        Parameters:
            failed: the connection to the present address was not made, so another one is tried.
        """
        assert link.name is not None
        host, port = link.name
        link.resolving, link.resolved_at = True, time.monotonic()

        def found(numbers: list[str]) -> None:
            link.resolving = False
            if not self._is_over(address, link) and not link.waits:
                self._on_found(address, link, [address_at(each, port) for each in numbers], failed)

        self._loop.names.look_up(host, found)

    def _on_found(self, address: str, link: _Link, endpoints: list[str], failed: bool) -> None:
        if not endpoints:
            # Without an answer, the last one counts.
            if not link.endpoint:
                self._again_later(address, link, Outcome.UNRESOLVED)
            return
        link.endpoints = endpoints
        if link.up:
            return  # it was made again meanwhile
        if failed or link.endpoint not in endpoints:
            self._move(address, link, self._following(link))

    def _following(self, link: _Link) -> str:
        """Return the address to be tried after the present one."""
        endpoints = link.endpoints
        if link.endpoint not in endpoints:
            return endpoints[0]
        return endpoints[(endpoints.index(link.endpoint) + 1) % len(endpoints)]

    def _move(self, address: str, link: _Link, endpoint: str) -> None:
        if endpoint == link.endpoint:
            return  # ZeroMQ connects to it again by itself
        self._hang_up(address, link)
        try:
            self._open(address, link, endpoint)
        except zmq.ZMQError as error:
            self._report_bad(address, link, str(error))
            self._refused(address, link, Outcome.UNREACHABLE)

    def _on_lost(self, address: str, link: _Link, *, failed: bool) -> None:
        """A connection was lost, or was not made."""
        if link.name is None or link.waits or link.resolving:
            return
        following = self._following(link)
        if failed and following not in (link.endpoints[0], link.endpoint):
            self._move(address, link, following)
        elif time.monotonic() >= link.resolved_at + LOOK_UP_EVERY:
            self._look_up(address, link, failed=failed)

    # -- what becomes of a connection ----------------------------------------

    def _on_event(self, event: int, value: int, endpoint: str) -> None:
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._on_connected()
        for address in list(self._at.get(_place(endpoint), ())):
            link = self._links.get(address)
            if link is None or link.waits:
                continue  # of a connection that was ended
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                link.ended, link.pause = 0, FIRST_PAUSE
                link.refusal, link.untried, link.up = None, [], True
            elif event & _LOST:
                link.up = False
                self._on_lost(address, link, failed=event == zmq.EVENT_CONNECT_RETRIED)
            elif (why := self._reason(link, event, value)) is not None:
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
        if self._is_over(address, link):
            return
        self._hang_up(address, link)
        link.ended = 0
        if why is Outcome.WRONG_KEY and link.untried:
            link.waits = True
            self._loop.later(FIRST_PAUSE, lambda: self._dial_again(address, link))
            return
        # The next round begins with the first key again.
        link.untried = []
        self._again_later(address, link, why)

    def _again_later(self, address: str, link: _Link, why: Outcome) -> None:
        link.waits = True
        pause, link.pause = link.pause, min(2 * link.pause, LONGEST_PAUSE)
        self._loop.later(pause, lambda: self._dial_again(address, link))
        self._metrics.count("zmq_connections_refused")
        if link.refusal is not why:
            link.refusal = why
            name = f"{link.record.host} at {address}" if link.record.host else address
            if why is Outcome.UNRESOLVED:
                self._metrics.record("zmq-bad-address", name, why.value)
            else:
                self._metrics.record("zmq-refused", name, why.value)
        self._on_refused(address, why)


def _place(endpoint: str) -> Hashable:
    return place_of(endpoint) or endpoint
