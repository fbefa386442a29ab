"""Opens AMQP 0-9-1 connections to the hosts of a driver."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import TypeAlias

from hbshim.heartbeat import service
from hbshim.messaging.amqp.connection import Connection
from hbshim.messaging.amqp.limits import Limits
from hbshim.messaging.amqp.options import AmqpOptions
from hbshim.messaging.connecting import HostConnector
from hbshim.messaging.hosts import Host

LOG = logging.getLogger("hbshim.messaging")

#: Opens one connection to one host before a deadline of ``time.monotonic()``.
Open: TypeAlias = Callable[[Host, AmqpOptions, float], Connection]


class Connector(HostConnector[Connection]):
    """Opens connections, first to the host that accepted the last one.

    Parameters:
        hosts: in the order in which they are tried.
        open_one: opens one connection with the client library.

    Attributes:
        limits: the limits of the brokers.
    """

    def __init__(self, hosts: Sequence[Host], options: AmqpOptions, open_one: Open) -> None:
        self.limits = Limits()

        def open_and_watch(host: Host, deadline: float) -> Connection:
            connection = open_one(host, options, deadline)
            connection.on_channel_closed = functools.partial(_channel_closed, connection.name)
            return connection

        super().__init__(hosts, options.connection_retry_delay, open_and_watch)


def _channel_closed(name: str, code: int, text: str) -> None:
    service.current().metrics.record("channel-closed", name, f"{text} ({code})")
    LOG.warning("%s: the broker closed a channel: %s (%s)", name, text, code)
