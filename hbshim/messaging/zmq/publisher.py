"""Publishes over one PUB/SUB pipeline, as the I/O thread sees it: FANOUT or NOTIFY.

A publication waits until every listener that is known has subscribed, so that none misses the
first messages of a new publisher. One that does not subscribe in time is left out, and not waited
for again until it does.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import zmq

from hbshim.messaging.zmq import frames
from hbshim.messaging.zmq.connector import Connector
from hbshim.messaging.zmq.curve import ServerKeys
from hbshim.messaging.zmq.directory import HostRecord, Pipeline
from hbshim.messaging.zmq.frames import Header
from hbshim.messaging.zmq.loop import Loop, Timer, try_send
from hbshim.messaging.zmq.settings import SocketSettings
from hbshim.messaging.zmq.sockets import make
from hbshim.messaging.zmq.subscriptions import Subscribers, fanout_subscription

if TYPE_CHECKING:
    from hbshim.messaging.zmq.traffic import Traffic

#: Seconds between two times that idle hosts are disconnected.
_CHECK_EVERY = 10.0

#: Subscriptions whose messages are numbered, and listeners that are not waited for.
_REMEMBERED = 10_000


@dataclass(eq=False)
class Publication:
    """What is to be published.

    Attributes:
        key: of the topic; of its pools, for notifications.
        instances: ids of the listeners that are known.
        until: when it is published without those that are missing, of ``time.monotonic()``.
        done: called with the number of copies that were sent.
        given_up: its sender waits no more, and may send it again; any thread may set it.
    """

    key: bytes
    header: Header
    body: bytes
    instances: Collection[bytes]
    until: float
    done: Callable[[int], None] = lambda copies: None
    given_up: bool = False
    missing: set[bytes] = field(default_factory=set)
    timer: Timer | None = None


class Publisher:
    """See the module. It connects when it is first used, and belongs to the I/O thread.

    Parameters:
        idle: seconds without a publication after which a host is disconnected; 0: never.
        server_keys: of the proxies; None: without CURVE.
    """

    def __init__(
        self,
        loop: Loop,
        settings: SocketSettings,
        pipeline: Pipeline,
        idle: float,
        metrics: Traffic,
        server_keys: ServerKeys | None = None,
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._pipeline: Pipeline = pipeline
        self._idle = idle
        self._metrics = metrics
        self._id = uuid.uuid4().bytes
        self._server_keys = server_keys
        self._socket: zmq.Socket[bytes] | None = None
        self._connector: Connector | None = None
        self._used: dict[str, float] = {}
        # The hosts of the latest publication, and their addresses: the next one mostly has them.
        self._latest: tuple[Sequence[HostRecord], list[str]] = (), []
        self._subscribers = Subscribers()
        self._waiting: dict[Publication, None] = {}
        self._left_out: dict[bytes, None] = {}
        self._sent: Counter[bytes] = Counter()
        self._turns = itertools.count()
        self._closed = False

    @property
    def connected(self) -> int:
        """Number of hosts that are published to; any thread may read it."""
        return len(self._used)

    def publish(self, hosts: Sequence[HostRecord], publication: Publication) -> None:
        """Publish to the listeners of hosts, once they have subscribed."""
        if self._closed:
            publication.done(0)
            return
        self._connect(hosts)
        wanted = set(publication.instances) - self._left_out.keys()
        publication.missing = self._subscribers.missing(wanted)
        if not publication.missing:
            self._publish(publication)
            return
        self._waiting[publication] = None
        left = max(0.0, publication.until - time.monotonic())
        publication.timer = self._loop.later(left, lambda: self._publish_without(publication))

    def close(self) -> None:
        """Close the connections, once what was published has left."""
        self._closed = True
        if self._socket is not None:
            self._loop.close(self._socket)

    def _connect(self, hosts: Sequence[HostRecord]) -> None:
        if self._socket is None or self._connector is None:
            self._socket = make(self._loop.context, "client-publish", self._settings)
            self._loop.read(self._socket, self._on_subscription)
            # A listener whose proxy refuses is left out.
            self._connector = Connector(
                self._loop,
                self._socket,
                self._pipeline,
                self._server_keys,
                self._metrics,
                lambda address, why: None,
            )
            if self._idle:
                self._loop.later(_CHECK_EVERY, self._disconnect_idle)
        now = time.monotonic()
        if hosts == self._latest[0]:
            self._used.update(dict.fromkeys(self._latest[1], now))
            return
        addresses = []
        for host in hosts:
            address = host.addresses.get(self._pipeline)
            if address is None:
                self._metrics.count("zmq_hosts_without_pipeline")
                continue
            if address in self._used:
                self._connector.update(host)
            elif not self._connector.connect(host):
                continue
            self._used[address] = now
            addresses.append(address)
        if len(addresses) == len(hosts):
            self._latest = hosts, addresses

    def _disconnect_idle(self) -> None:
        if self._closed or self._connector is None:
            return
        self._loop.later(_CHECK_EVERY, self._disconnect_idle)
        before = time.monotonic() - self._idle
        for address in [address for address, used in self._used.items() if used < before]:
            del self._used[address]
            self._connector.disconnect(address)
            self._latest = (), []

    def _on_subscription(self, message: list[bytes]) -> None:
        instance = self._subscribers.take(message[0])
        if instance is None:
            return
        self._left_out.pop(instance, None)
        for publication in list(self._waiting):
            publication.missing.discard(instance)
            if not publication.missing:
                self._publish(publication)

    def _publish_without(self, publication: Publication) -> None:
        """Publish, though some listeners have not subscribed in time."""
        if self._closed:
            return
        self._metrics.record(
            "zmq-listener-left-out",
            "",
            f"{len(publication.missing)} of {len(publication.instances)} listeners of "
            f"{publication.header.topic!r} have not subscribed in time",
        )
        self._left_out.update(dict.fromkeys(publication.missing))
        while len(self._left_out) > _REMEMBERED:
            del self._left_out[next(iter(self._left_out))]
        self._publish(publication)

    def _publish(self, publication: Publication) -> None:
        self._waiting.pop(publication, None)
        if publication.timer is not None:
            publication.timer.cancel()
        if publication.given_up:
            return
        # Also those that it did not wait for.
        if missing := self._subscribers.missing(publication.instances):
            self._metrics.count("zmq_listeners_left_out", len(missing))
        copies = 0
        for subscription in self._receivers(publication):
            self._send(subscription, publication)
            copies += 1
        publication.done(copies)

    def _receivers(self, publication: Publication) -> list[bytes]:
        """Return a subscription for each copy: for a fanout one, which all listeners share."""
        if self._pipeline == "fanout":
            return [fanout_subscription(publication.key)] if publication.instances else []
        turn = next(self._turns)
        chosen = []
        for members in self._subscribers.pools(publication.key).values():
            subscriptions = list(members.values())
            chosen.append(subscriptions[turn % len(subscriptions)])
        return chosen

    def _send(self, subscription: bytes, publication: Publication) -> None:
        assert self._socket is not None
        if subscription not in self._sent and len(self._sent) >= _REMEMBERED:
            # A listener takes a lower number for a new beginning.
            self._sent.clear()
        self._sent[subscription] += 1
        header = publication.header._replace(sequence=self._sent[subscription])
        self._metrics.sent(header.kind)
        behind = False
        for frame in frames.pack(header, publication.body, before=subscription + self._id):
            if try_send(self._socket, [frame]):
                # A subscriber does not keep up: the others get it, and that one counts a gap.
                behind = True
                self._socket.set(zmq.XPUB_NODROP, 0)
                try_send(self._socket, [frame])
        if behind:
            self._socket.set(zmq.XPUB_NODROP, 1)
            self._metrics.count("zmq_subscribers_behind")
            self._metrics.record("subscriber-behind", "", f"topic {header.topic!r}")
