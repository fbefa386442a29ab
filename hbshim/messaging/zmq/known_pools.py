"""In which pool each listener to notifications is, as its proxy reported. No I/O."""

from __future__ import annotations

from collections.abc import Iterable

from hbshim.messaging.recent import Recent

#: Listeners whose pools are remembered.
_REMEMBERED = 10_000

#: Seconds for which a listener, or a host, is left out.
_LEFT_OUT = 5.0


class KnownPools:
    """The pools of listeners, by notification key and id: a listener stays in its pool."""

    def __init__(self) -> None:
        self._pools: dict[tuple[bytes, bytes], str] = {}
        self._left_out: Recent[tuple[bytes, bytes]] = Recent(_REMEMBERED, _LEFT_OUT)

    def remember(self, key: bytes, listeners: Iterable[tuple[bytes, str]]) -> None:
        """Remember what a proxy has answered: ids and pools."""
        if len(self._pools) >= _REMEMBERED:
            self._pools.clear()
        self._pools.update(((key, instance), pool) for instance, pool in listeners)

    def pool(self, key: bytes, instance: bytes) -> str | None:
        """Return the pool of a listener; None: it is not known."""
        return self._pools.get((key, instance))

    def leave_out(self, key: bytes, name: bytes) -> None:
        """Do not wait for a listener or a host for a while."""
        self._left_out.add((key, name))

    def is_left_out(self, key: bytes, name: bytes) -> bool:
        """Return whether a listener or a host is not to be waited for."""
        return (key, name) in self._left_out
