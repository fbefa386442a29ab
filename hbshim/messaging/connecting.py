"""Opens connections: tries the hosts in turn until one accepts or the deadline has passed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from hbshim.errors import ConnectError, MessagingError
from hbshim.messaging.backoff import retrying
from hbshim.messaging.hosts import Host

C = TypeVar("C")

#: Seconds for one of several hosts in the first round; doubled in each further round.
FIRST_LIMIT = 3.0

#: Seconds; a round that the deadline cuts off after less shows nothing about the hosts.
SHORT = 0.25


class HostConnector(Generic[C]):
    """Opens connections, first to the host that accepted the last one.

    Parameters:
        hosts: in the order in which they are tried.
        retry_delay: bound of the first pause between two rounds, in seconds.
        open_one: opens one connection to one host before a deadline of ``time.monotonic()``.

    Attributes:
        refused: the error of the last round in which no host accepted; a round that had almost no
            time left does not replace it.
    """

    def __init__(
        self, hosts: Sequence[Host], retry_delay: float, open_one: Callable[[Host, float], C]
    ) -> None:
        self._hosts = tuple(hosts)
        self._retry_delay = retry_delay
        self._open_one = open_one
        self._first = 0
        self._failures = 0
        self.refused = "no host has answered yet"

    def connect(self, deadline: float, attempts: int | None = None) -> C:
        """Open a connection.

        Parameters:
            deadline: of ``time.monotonic()``, for everything.
            attempts: rounds over all hosts; None: as many as the deadline allows.

        Raises:
            ConnectError: no host accepted; `final` if retrying is useless.
        """
        for attempt in retrying(attempts, self._retry_delay, deadline, retry_on=may_connect_yet):
            with attempt:
                return self._one_round(deadline)
        raise AssertionError("retrying() ends by returning or raising")

    def _one_round(self, deadline: float) -> C:
        refused: list[str] = []
        final = True
        count = len(self._hosts)
        began = time.monotonic()
        for offset in range(count):
            index = (self._first + offset) % count
            now = time.monotonic()
            # Each host gets an equal share of the remaining time, so that none uses up all of it;
            # in the first round no more than a distant broker needs to answer.
            share = max(0.0, deadline - now) / (count - offset)
            until = now + (share if count == 1 else min(share, FIRST_LIMIT * 2**self._failures))
            try:
                connection = self._open_one(self._hosts[index], until)
            except ConnectError as error:
                refused.append(str(error))
                final = final and error.final
            except MessagingError as error:
                refused.append(str(error))
                final = False
            else:
                self._first = index
                self._failures = 0
                return connection
        cut_off = deadline - began < SHORT and time.monotonic() >= deadline
        if not (cut_off and self._failures):
            self.refused = "; ".join(refused)
        self._failures = min(self._failures + 1, 10)
        raise ConnectError(self.refused, final=final)


def may_connect_yet(error: BaseException) -> bool:
    """Return whether another attempt to connect may succeed."""
    return isinstance(error, ConnectError) and not error.final
