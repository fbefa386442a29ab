"""What a process knows of the directory: its rules, without I/O, with the clock as an argument.

A host is dropped from a key for one of three reasons: (a) it was withdrawn; (b) its lease has
ended in a directory that was reachable, and had its data, for as long as a lease lasts; (c) the
driver itself found that it does not serve the key. A directory that cannot be reached, or that is
empty because it was restarted, is no reason; neither is one that hung, because leases end
meanwhile that it did not let their owners renew.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from hbshim.messaging.zmq.directory import Route
from hbshim.messaging.zmq.directory.settings import RENEWALS

#: Seconds for which it is believed that no host serves a key, unless a change is announced; and
#: for which a host that has rejected a key is not offered again.
NEGATIVE = 1.0

#: Seconds after which a key that is not used is no longer kept up to date.
UNUSED = 300.0


@dataclass
class _Known:
    """What is known of one key."""

    routes: dict[str, Route] = field(default_factory=dict)
    #: When each lease ends.
    ends: dict[str, float] = field(default_factory=dict)
    #: Until when a key without routes is known to have none.
    none_until: float = -math.inf
    used: float = -math.inf
    #: What :meth:`RouteCache.find` returns, made once for many messages.
    sorted: tuple[Route, ...] | None = None

    def remove(self, host: str) -> bool:
        self.ends.pop(host, None)
        self.sorted = None
        return self.routes.pop(host, None) is not None


class RouteCache:
    """The routes of the keys that are in use.

    Parameters:
        lease: seconds that a lease lasts.
    """

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._keys: dict[bytes, _Known] = {}
        # Since when the directory was reachable and had its data; and when it answered last.
        self._trusted_since: float | None = None
        self._answered = -math.inf
        self._epoch: bytes | None = None
        self._refused: dict[tuple[bytes, str], tuple[str, float]] = {}

    @property
    def keys(self) -> list[bytes]:
        """The keys that are in use."""
        return list(self._keys)

    def find(self, key: bytes, now: float) -> tuple[Route, ...] | None:
        """Return the routes of a key, by name of the host; None where it must be looked up."""
        known = self._keys.get(key)
        if known is None:
            return None
        known.used = now
        if known.routes or now < known.none_until:
            return self._sorted(known)
        return None

    def peek(self, key: bytes) -> tuple[Route, ...]:
        """Return the routes of a key, however little is known of it."""
        known = self._keys.get(key)
        return () if known is None else self._sorted(known)

    def put(self, key: bytes, found: Iterable[tuple[Route, float]], now: float) -> bool:
        """Take the result of a lookup.

        Parameters:
            found: hosts that serve the key, and for how many seconds their leases last.

        Returns:
            Whether it changes what :meth:`find` returns.
        """
        known = self._keys.setdefault(key, _Known(used=now))
        before = self._sorted(known)
        listed = set()
        for route, left in found:
            host = route.record.host
            listed.add(host)
            if not self._is_refused(key, route, now):
                known.routes[host] = route
                known.ends[host] = now + left
        if self._is_trusted(now):
            for host in set(known.routes) - listed:
                known.remove(host)
        known.sorted = None
        known.none_until = now + NEGATIVE
        return self._sorted(known) != before

    def forget(self, key: bytes, host: str, now: float) -> bool:
        """Drop a host from a key for reason (c); return whether it was known."""
        known = self._keys.get(key)
        route = known.routes.get(host) if known else None
        if known is None or route is None:
            return False
        known.none_until = now + NEGATIVE
        self._refused[key, host] = route.record.incarnation, now + NEGATIVE
        return known.remove(host)

    def withdraw(self, host: str, instance: str) -> bool:
        """Drop an instance, or with "" the host, for reason (a); return whether it was known."""
        changed = False
        for known in list(self._keys.values()):
            route = known.routes.get(host)
            if route is None or (instance and instance not in route.instances):
                continue
            left = tuple(each for each in route.instances if instance and each != instance)
            changed = True
            known.remove(host)
            if left:
                known.routes[host] = Route(route.record, left)
        return changed

    def added(self, host: str, keys: Iterable[bytes] | None) -> list[bytes]:
        """Note that listeners were added; return the keys in use that must be looked up.

        Parameters:
            keys: that the host serves from now on; None: any.
        """
        for key, refused in list(self._refused):
            if refused == host:
                del self._refused[key, refused]
        wanted = self._keys if keys is None else self._keys.keys() & set(keys)
        for key in wanted:
            self._keys[key].none_until = -math.inf
        return list(wanted)

    def reached(self, epoch: bytes | None, now: float) -> None:
        """Note that the directory has answered.

        Parameters:
            epoch: another one shows that it has lost its data since; None: that it has none.
        """
        hung = now - self._answered > self._lease - self._lease / RENEWALS
        if epoch is None:
            self._trusted_since = None
        elif self._trusted_since is None or epoch != self._epoch or hung:
            self._trusted_since = now
        self._epoch, self._answered = epoch, now

    def lost(self) -> None:
        """Note that the directory cannot be reached."""
        self._trusted_since = None

    def drop_unused(self, now: float) -> None:
        """Forget keys that were not used for :data:`UNUSED`."""
        for key in [key for key, known in list(self._keys.items()) if now - known.used > UNUSED]:
            del self._keys[key]
        for at in [at for at, (_, until) in list(self._refused.items()) if now >= until]:
            del self._refused[at]

    def next_end(self, now: float) -> float:
        """Return when the first lease ends that has not ended yet."""
        ends = (end for known in list(self._keys.values()) for end in known.ends.values())
        return min((end for end in ends if end > now), default=math.inf)

    def _is_trusted(self, now: float) -> bool:
        return self._trusted_since is not None and now - self._trusted_since >= self._lease

    def _is_refused(self, key: bytes, route: Route, now: float) -> bool:
        incarnation, until = self._refused.get((key, route.record.host), ("", -math.inf))
        return now < until and incarnation == route.record.incarnation

    @staticmethod
    def _sorted(known: _Known) -> tuple[Route, ...]:
        if known.sorted is None:
            known.sorted = tuple(known.routes[host] for host in sorted(known.routes))
        return known.sorted
