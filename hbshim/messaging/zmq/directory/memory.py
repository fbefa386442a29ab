"""A directory within one process, which clients, servers and the proxy then share."""

from __future__ import annotations

from collections.abc import Callable

from hbshim.messaging.zmq.directory import HostRecord, Registration, Route, Routes
from hbshim.runtime.unpatched import HiddenLock


class MemoryDirectory:
    """See :class:`hbshim.messaging.zmq.directory.Directory`. Nothing in it expires."""

    def __init__(self) -> None:
        # A native one, held only for a moment: the proxy may run in a native thread, and its
        # clients in green ones.
        self._lock = HiddenLock()
        self._hosts: dict[str, HostRecord] = {}
        self._listeners: dict[tuple[str, str], Registration] = {}
        self._watchers: dict[object, Callable[[], None]] = {}

    def register(self, record: HostRecord, registration: Registration, deadline: float) -> bool:
        with self._lock.native:
            self._hosts[record.host] = record
            self._listeners[record.host, registration.instance] = registration
        self._announce()
        return True

    def withdraw(self, host: str, instance: str | None, deadline: float) -> bool:
        with self._lock.native:
            if instance is None:
                self._hosts.pop(host, None)
            for at in list(self._listeners):
                if at[0] == host and instance in (None, at[1]):
                    del self._listeners[at]
        self._announce()
        return True

    def renew(self, host: str, deadline: float) -> bool:
        with self._lock.native:
            return host in self._hosts

    def routes(self, key: bytes, deadline: float) -> Routes:
        instances: dict[str, list[str]] = {}
        with self._lock.native:
            for (host, instance), registration in list(self._listeners.items()):
                if key in registration.keys:
                    instances.setdefault(host, []).append(instance)
            found = (
                Route(self._hosts[host], tuple(sorted(ids)))
                for host, ids in sorted(instances.items())
            )
            return Routes(tuple(found))

    def forget(self, key: bytes, host: str) -> None:
        """Do nothing: a lookup here reads what the proxies wrote, and no copy of it."""

    def watch(self, on_change: Callable[[], None]) -> Callable[[], None]:
        mark = object()
        with self._lock.native:
            self._watchers[mark] = on_change

        def end() -> None:
            with self._lock.native:
                self._watchers.pop(mark, None)

        return end

    def close(self) -> None:
        """Do nothing: others in this process may use it."""

    def _announce(self) -> None:
        with self._lock.native:
            watchers = list(self._watchers.values())
        for on_change in watchers:
            on_change()
