"""What the broker accepts, as far as it has said so.

AMQP 0-9-1 does not announce RabbitMQ's `max_message_size`. A message above it is answered by
closing its channel, with all consumers on it. So a message that no broker is known to accept
is sent where a closed channel harms no other caller, and the limit is taken from the refusal.
"""

from __future__ import annotations

import re

from hbshim.errors import PayloadError
from hbshim.protocol.reply_codes import PRECONDITION_FAILED

#: Bytes. The smallest default of `max_message_size` of all versions: that of RabbitMQ 4.
ACCEPTED = 16 * 1024 * 1024

# "message size 17000000 is larger than configured max size 16777216"
_TOO_LARGE = re.compile(r"larger than (?:configured )?max size '?(\d+)")


class Limits:
    """The limits of the brokers of one driver, and the exchanges that may not be written to."""

    def __init__(self) -> None:
        self._accepted = ACCEPTED
        self._largest: int | None = None
        self._refused: set[str] = set()

    def check(self, size: int) -> None:
        """Refuse a body that the broker is known to refuse.

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
        """Whether a message is known not to make the broker close its channel."""
        return size <= self._accepted and exchange not in self._refused

    def accepted(self, size: int, exchange: str) -> None:
        """The broker has confirmed such a message."""
        if size > self._accepted:
            self._accepted = size
        self._refused.discard(exchange)

    def refused(self, code: int | None, text: str, exchanges: set[str]) -> None:
        """The broker has closed a channel.

        Parameters:
            code, text: its reason.
            exchanges: those that were published to over this channel.
        """
        found = _TOO_LARGE.search(text)
        if code == PRECONDITION_FAILED and found:
            self._largest = int(found[1])
            self._accepted = min(self._accepted, self._largest)
        else:
            self._refused.update(name for name in exchanges if f"'{name}'" in text)
