"""Addresses of RabbitMQ 4 (its "address v2"), made of exchanges, routing keys and queues.

AMQP 1.0 has them in place of names, and a request from there has one as `reply-to`.
"""

from __future__ import annotations

import functools
from urllib.parse import quote, unquote

_QUEUES = "/queues/"


def address(exchange: str, routing_key: str) -> str:
    """Return where a message goes to.

    Parameters:
        exchange: a name; "" is the default exchange, whose routing keys are names of queues.
        routing_key: of the message.
    """
    if not exchange:
        return queue_address(routing_key)
    return f"{exchange_address(exchange)}/{_encoded(routing_key)}"


def exchange_address(name: str) -> str:
    """Return the address of an exchange."""
    return f"/exchanges/{_encoded(name)}"


def queue_address(name: str) -> str:
    """Return the address of a queue."""
    return f"{_QUEUES}{_encoded(name)}"


def queue_at(address: str) -> str:
    """Return the name of the queue that an address means; what is no address is a name itself."""
    return unquote(address[len(_QUEUES) :]) if address.startswith(_QUEUES) else address


# Each message has three of them, and a process few names: 4 % of a call's time.
@functools.lru_cache(maxsize=1024)
def _encoded(name: str) -> str:
    return quote(name, safe="")
