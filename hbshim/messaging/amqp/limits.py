"""What the broker accepts, as far as it is known: sizes of messages, and write access.

Also which exchanges were deleted while they were in use: the bindings of queues went with them.

AMQP 0-9-1 does not announce RabbitMQ's `max_message_size`, nor the exchanges that a user may write
to. The broker closes the channel over a message that it does not accept, and so ends all consumers
on it, and drops what is published meanwhile. A message that is not known to be accepted is
therefore sent with a confirm, on a connection where a closed channel affects no other caller. The
size limit is read from the broker's error.
"""

from __future__ import annotations

import re

from hbshim.errors import PayloadError
from hbshim.protocol.reply_codes import NOT_FOUND, PRECONDITION_FAILED

#: Bytes. The smallest default of `max_message_size` of all versions: that of RabbitMQ 4.
ACCEPTED = 16 * 1024 * 1024

#: Routing keys that are remembered. Their queues are bound once more beyond it, without effect.
_KEYS_KEPT = 10_000

# "message size 17000000 is larger than configured max size 16777216"
_TOO_LARGE = re.compile(r"larger than (?:configured )?max size '?(\d+)")


class Limits:
    """The limits of the brokers of one driver, and the exchanges with write access."""

    def __init__(self) -> None:
        self._accepted = ACCEPTED
        self._largest: int | None = None
        # The default exchange has the replies, which are not worth a confirm each.
        self._writable = {""}
        # The routing keys of queues that were bound again, by the name of a deleted exchange.
        self._bound_again: dict[str, set[str]] = {}

    def check(self, size: int) -> None:
        """Raise an error for a body that the broker is known to refuse.

        Parameters:
            size: bytes.

        Raises:
            PayloadError: it is larger than the broker's limit.
        """
        if self._largest is not None and size > self._largest:
            raise PayloadError(
                f"the payload has {size} bytes, encoded, and the broker's max_message_size is "
                f"{self._largest}; send less, or raise max_message_size at the broker"
            )

    def known(self, size: int, exchange: str) -> bool:
        """Return whether a message is known not to make the broker close its channel."""
        return size <= self._accepted and exchange in self._writable

    def writable(self, exchange: str) -> bool:
        """Return whether the broker accepts messages to this exchange, as it did the last one."""
        return exchange in self._writable

    def accepted(self, size: int, exchange: str) -> None:
        """Record that the broker has confirmed such a message."""
        if size > self._accepted:
            self._accepted = size
        self._writable.add(exchange)

    def refused(self, code: int | None, text: str, exchanges: set[str]) -> None:
        """Record that the broker has closed a channel.

        Parameters:
            code, text: its reason.
            exchanges: those that were published to over this channel.
        """
        found = _TOO_LARGE.search(text)
        if code == PRECONDITION_FAILED and found:
            self._largest = int(found[1])
            self._accepted = min(self._accepted, self._largest)
        else:
            named = {name for name in exchanges if f"'{name}'" in text}
            self._writable -= named
            if code == NOT_FOUND:
                for name in named:
                    self.deleted(name)

    def deleted(self, exchange: str) -> None:
        """Record that an exchange that was in use does not exist any longer."""
        self._bound_again[exchange] = set()

    def was_deleted(self, exchange: str) -> bool:
        """Return whether the exchange was deleted while it was in use."""
        return exchange in self._bound_again

    def is_bound(self, exchange: str, key: str) -> bool:
        """Return False if the queue of a routing key may have lost its binding."""
        bound = self._bound_again.get(exchange)
        return bound is None or key in bound

    def bound(self, exchange: str, key: str) -> None:
        """Record that a queue was bound again, or that only its servers can do so."""
        keys = self._bound_again.setdefault(exchange, set())
        if len(keys) >= _KEYS_KEPT:
            keys.clear()
        keys.add(key)
