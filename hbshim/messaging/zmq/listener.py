"""Receives calls, casts and publications from the proxy of this host."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hbshim.errors import OptionError
from hbshim.messaging.duplicates import duplicate_cache
from hbshim.messaging.polling import PollingListener
from hbshim.messaging.zmq.connection import Connection, Subscription
from hbshim.messaging.zmq.incoming import ZmqIncoming
from hbshim.messaging.zmq.link import State
from hbshim.messaging.zmq.settings import COPIES_KEPT

if TYPE_CHECKING:
    from hbshim.messaging.zmq.embedded import EmbeddedProxy
    from hbshim.messaging.zmq.options import ZmqOptions
    from hbshim.messaging.zmq.traffic import Traffic

#: Seconds between two checks whether the proxy has registered the listener.
_CHECK_EVERY = 0.2

#: Seconds that the I/O thread may take to stop receiving.
_PAUSE_WITHIN = 2.0


class ZmqListener(PollingListener[ZmqIncoming, Connection]):
    """See :class:`hbshim.messaging.base.Listener`.

    Parameters:
        keys: what it is registered for.
        subscription: what it receives over PUB/SUB.
        prefetch: requests that it may hold; 0: any number.
        proxy: of this process, if it has one.

    Attributes:
        metrics: as given.
    """

    def __init__(
        self,
        options: ZmqOptions,
        keys: Sequence[bytes],
        subscription: Subscription,
        prefetch: int,
        metrics: Traffic,
        proxy: EmbeddedProxy | None = None,
        *,
        acknowledge_first: bool,
    ) -> None:
        started = duplicate_cache(COPIES_KEPT, options.rpc_message_ttl)
        super().__init__(acknowledge_first=acknowledge_first, duplicates=started)
        self._options = options
        self._keys = keys
        self._subscription = subscription
        self._prefetch = prefetch
        self.metrics = metrics
        self._proxy = proxy
        self._registered = False

    @property
    def is_open(self) -> bool:
        """Whether it is connected to its proxy, or about to be."""
        return self._connection is not None

    @property
    def outbox_bytes(self) -> int:
        """Bytes of replies that wait to be sent; any thread may read it."""
        connection = self._connection
        return 0 if connection is None else connection.outbox_bytes

    @property
    def inbox_bytes(self) -> int:
        """Bytes of publications that wait to be handled; any thread may read it."""
        connection = self._connection
        return 0 if connection is None else connection.inbox_bytes

    def _serves(self) -> bool:
        if self._proxy is not None and not self._proxy.decided:
            return False  # one of its processes listens, and another one may be refused
        return self._registered and self._consuming

    def _check_refusals(self) -> None:
        """Raise the reason why this process's own proxy cannot listen."""
        if self._proxy is not None and (reason := self._proxy.refusal) is not None:
            raise OptionError(f"the embedded proxy: {reason}")

    def _next_attempt(self) -> float:
        return 0.0

    def _start_drainer(self) -> None:
        """Do nothing: the I/O thread notes when each message arrives."""

    def _receive(self, left: float, *, drain: bool = True) -> None:
        self._changed.clear()
        connection = self._connection
        if connection is None:
            connection = self._connection = Connection(
                self._options, self._keys, self._subscription, self._prefetch, self.metrics
            )
            self._consuming = True
        elif not self._consuming and not (self._paused or self._stopped):
            connection.resume()
            self._consuming = True
        if self._stopped or self._changed.is_set():
            return
        # Opening waits for the proxy's word, and no message may come before it.
        self._take(connection, left if drain else min(left, _CHECK_EVERY))

    def _take(self, connection: Connection, timeout: float) -> bool:
        """Move to the inbox what has arrived; return whether nothing more will."""
        paused = False
        for item in connection.mailbox.take(timeout):
            if isinstance(item, State):
                self._registered = self._registered or item is State.REGISTERED
                paused = item is State.PAUSED
                continue
            incoming = ZmqIncoming(item, connection, self._options)
            # A publication is this listener's alone: what has arrived is handled at the end.
            self._inbox.put((incoming, not item.is_publication))
        return paused

    def _stop_consuming(self) -> None:
        connection = self._connection
        if connection is not None and (self._consuming or self._stopped):
            if self._stopped:
                connection.stop()
            else:
                connection.pause()
            # What the I/O thread has received by then is requeued below.
            until = time.monotonic() + _PAUSE_WITHIN
            while not self._take(connection, until - time.monotonic()):
                if time.monotonic() >= until:
                    break
        self._consuming = False
        self._inbox.return_to_queue(stopped=self._stopped)
