"""Where an address is that a socket is connected to: ZeroMQ's events write one in several forms."""

from __future__ import annotations

import ipaddress
import re
from typing import TypeAlias

#: An IP address and a port.
Place: TypeAlias = "tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]"

_ADDRESS = re.compile(r"tcp://\[?([^\[\]]+)\]?:([0-9]+)")


def place_of(address: str) -> Place | None:
    """Return the IP address and the port of an address; None where it has a name."""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        return None
    try:
        number = ipaddress.ip_address(match[1].partition("%")[0])
    except ValueError:
        return None
    return getattr(number, "ipv4_mapped", None) or number, int(match[2])


def name_in(address: str) -> tuple[str, str] | None:
    """Return the name of the host and the port of an address; None where it has no name."""
    match = _ADDRESS.fullmatch(address)
    return None if match is None or place_of(address) is not None else (match[1], match[2])


def address_at(number: str, port: str) -> str:
    """Return the address of an IP address and a port."""
    return f"tcp://[{number}]:{port}" if ":" in number else f"tcp://{number}:{port}"
