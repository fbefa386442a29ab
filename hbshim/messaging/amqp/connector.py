"""Opens connections: tries the hosts in turn until one accepts or the deadline has passed."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from hbshim.errors import ConnectError, MessagingError
from hbshim.heartbeat import service
from hbshim.messaging.amqp.connection import Connection
from hbshim.messaging.amqp.limits import Limits
from hbshim.messaging.amqp.options import AmqpOptions
from hbshim.messaging.backoff import retrying
from hbshim.messaging.hosts import Host

LOG = logging.getLogger("hbshim.messaging")

#: Opens one connection to one host before a deadline of ``time.monotonic()``.
Open: TypeAlias = Callable[[Host, AmqpOptions, float], Connection]


#: Seconds for one of several hosts in the first round; doubled in each further round.
FIRST_LIMIT = 3.0


class Connector:
    """Opens connections, first to the host that accepted the last one.

    Parameters:
        hosts: in the order in which they are tried.
        open_one: opens one connection with the client library.

    Attributes:
        refused: the error of the last attempt at which no host accepted.
        limits: the limits of the brokers.
    """

    def __init__(self, hosts: Sequence[Host], options: AmqpOptions, open_one: Open) -> None:
        self._hosts = tuple(hosts)
        self._options = options
        self._open = open_one
        self._first = 0
        self._failures = 0
        self.refused = "no host has answered yet"
        self.limits = Limits()

    def connect(self, deadline: float, attempts: int | None = None) -> Connection:
        """Open a connection.

        Parameters:
            deadline: of ``time.monotonic()``, for everything.
            attempts: rounds over all hosts; None: as many as the deadline allows.

        Raises:
            ConnectError: no host accepted; `final` if retrying is useless.
        """
        delay = self._options.connection_retry_delay
        for attempt in retrying(attempts, delay, deadline, retry_on=may_connect_yet):
            with attempt:
                return self._one_round(deadline)
        raise AssertionError("retrying() ends by returning or raising")

    def _one_round(self, deadline: float) -> Connection:
        refused: list[str] = []
        final = True
        count = len(self._hosts)
        for offset in range(count):
            index = (self._first + offset) % count
            host = self._hosts[index]
            now = time.monotonic()
            # Each host gets an equal share of the remaining time, so that none uses up all of it;
            # in the first round no more than a distant broker needs to answer.
            share = max(0.0, deadline - now) / (count - offset)
            until = now + (share if count == 1 else min(share, FIRST_LIMIT * 2**self._failures))
            try:
                connection = self._open(host, self._options, until)
            except ConnectError as error:
                refused.append(str(error))
                final = final and error.final
            except MessagingError as error:
                refused.append(str(error))
                final = False
            else:
                self._first = index
                self._failures = 0
                connection.on_channel_closed = functools.partial(_channel_closed, connection.name)
                return connection
        self._failures = min(self._failures + 1, 10)
        self.refused = "; ".join(refused)
        raise ConnectError(self.refused, final=final)


def _channel_closed(name: str, code: int, text: str) -> None:
    service.current().metrics.record("channel-closed", name, f"{text} ({code})")
    LOG.warning("%s: the broker closed a channel: %s (%s)", name, text, code)


def may_connect_yet(error: BaseException) -> bool:
    """Return whether another attempt to connect may succeed."""
    return isinstance(error, ConnectError) and not error.final
