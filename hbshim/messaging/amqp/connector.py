"""Opens connections: to the first host that lets us in, again and again until it is too late."""

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

#: Opens one connection to one host by a time of ``time.monotonic()``; the library's own part.
Open: TypeAlias = Callable[[Host, AmqpOptions, float], Connection]


#: Seconds for one of several hosts in the first round; twice that in each further one.
FIRST_LIMIT = 3.0


class Connector:
    """Knows the hosts, and where it got in last.

    Parameters:
        hosts: in the order in which they are to be tried.
        open_one: opens one connection with the client library.

    Attributes:
        refused: why none of the hosts let us in the last time that none did.
        limits: what the brokers accept.
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
            attempts: rounds over all hosts; None: as many as the time allows.

        Raises:
            ConnectError: no host let us in; `final` where another try is no use.
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
            # Each host gets an equal share of what is left, so that none uses up all of it; and
            # at first no more than it takes to reach a distant one that is there.
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
    """Whether another try to connect may help."""
    return isinstance(error, ConnectError) and not error.final
