"""Which of the addresses that a socket is connected to an event is about.

ZeroMQ's events have an address as it was given. Once such a connection was lost and made again they
have it in numbers, and the name of the host has to be resolved.
"""

from __future__ import annotations

import ipaddress
import re
from _socket import getaddrinfo  # the native one, whatever is patched
from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

from hbshim.errors import WorkerError
from hbshim.messaging.zmq.loop import Loop
from hbshim.runtime.unpatched import start_native_thread

#: An IP address and a port.
Place: TypeAlias = "tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]"

_ADDRESS = re.compile(r"tcp://\[?([^\[\]]+)\]?:([0-9]+)")


class Places:
    """See the module. It belongs to the I/O thread, which does not wait for names."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._resolving = False
        self._waiting: list[tuple[Place, Callable[[str], None]]] = []

    def find(self, numbers: str, addresses: Collection[str], found: Callable[[str], None]) -> None:
        """Call a function, perhaps later, with each of some addresses that is at a place.

        Parameters:
            numbers: the place, as ZeroMQ names it.
        """
        place = place_of(numbers)
        if place is None:
            return
        by_place = {address: place_of(address) for address in addresses}
        names = [address for address, known in by_place.items() if known is None]
        for address, known in by_place.items():
            if known == place:
                found(address)
        if names and place not in by_place.values():
            self._waiting.append((place, found))
            self._resolve(names)

    def _resolve(self, names: Collection[str]) -> None:
        if self._resolving:
            return
        self._resolving = True

        def run() -> None:
            resolved = {name: resolve(name) for name in names}
            self._loop.post(lambda: self._finish(resolved))

        try:
            start_native_thread(run, lambda: None)
        except WorkerError:
            self._finish({})

    def _finish(self, resolved: Mapping[str, Collection[Place]]) -> None:
        self._resolving = False
        waiting, self._waiting = self._waiting, []
        for place, found in waiting:
            for name, places in resolved.items():
                if place in places:
                    found(name)


def place_of(address: str) -> Place | None:
    """Return the IP address and the port of an address; None where it has a name."""
    match = _ADDRESS.fullmatch(address)
    return None if match is None else _place(match[1], int(match[2]))


def _place(host: str, port: int) -> Place | None:
    try:
        number = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(number, "ipv4_mapped", None) or number, port


def resolve(address: str) -> set[Place]:
    """Return where an address with the name of a host is, as far as the system knows."""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        return set()
    try:
        found = getaddrinfo(match[1], int(match[2]))
    except (OSError, UnicodeError):
        return set()
    places = (_place(str(each[4][0]), int(match[2])) for each in found)
    return {each for each in places if each is not None}
