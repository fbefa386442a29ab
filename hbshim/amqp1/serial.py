"""Numbers that wrap around at 2**32 (RFC 1982): of deliveries, of transfers, of credit."""

from __future__ import annotations

from hbshim.amqp1.errors import INVALID_FIELD, ProtocolError

_MASK = 0xFFFFFFFF
_HALF = 0x80000000


def add(number: int, count: int) -> int:
    """Return the number that lies `count` after another."""
    return (number + count) & _MASK


def distance(first: int, last: int, what: str) -> int:
    """Return how far `last` lies after `first`.

    Parameters:
        what: names the numbers, for the error.

    Raises:
        ProtocolError: it lies before it.
    """
    found = (last - first) & _MASK
    if found >= _HALF:
        raise ProtocolError(f"{what} {last} lies before {first}", INVALID_FIELD)
    return found
