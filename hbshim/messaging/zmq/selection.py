"""Which of the hosts that serve a key gets the next message: weighted round-robin. No I/O."""

from __future__ import annotations

from collections.abc import Collection

from hbshim.messaging.zmq.directory import Route, Routes

#: Keys whose rotation is remembered.
_REMEMBERED = 10_000


class Rotation:
    """Takes turns among hosts, each as often as it has servers; smooth, as nginx does it."""

    def __init__(self) -> None:
        self._turns: dict[bytes, dict[str, int]] = {}

    def choose(self, key: bytes, routes: Routes, without: Collection[str]) -> Route | None:
        """Return the host whose turn it is.

        Parameters:
            without: names of hosts, see :func:`name_of`, that were tried already.
        """
        left = [route for route in routes.routes if name_of(route) not in without]
        if len(left) < 2:
            return left[0] if left else None
        if key not in self._turns and len(self._turns) >= _REMEMBERED:
            self._turns.clear()
        turns = self._turns.setdefault(key, {})
        total = 0
        for route in left:
            weight = max(1, len(route.instances))
            turns[name_of(route)] = turns.get(name_of(route), 0) + weight
            total += weight
        chosen = max(left, key=lambda route: turns[name_of(route)])
        turns[name_of(chosen)] -= total
        return chosen


def name_of(route: Route) -> str:
    """Return the name of a host, or its address where only that is known."""
    return route.record.host or route.record.addresses["call"]
