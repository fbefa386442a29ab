"""The pools of the listeners to notifications, as a sender that waits for acknowledgements needs.

The directory names the hosts, and the listeners on each; their proxies report in which pool each
listener is, and are asked once. Where only the addresses of hosts are known, each is asked again
and again. A pool that is not found gets nothing, so a proxy that does not answer is waited for.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from hbshim.errors import ConnectError
from hbshim.messaging.target import Target, described
from hbshim.messaging.zmq import frames
from hbshim.messaging.zmq.caller import FIRST_PAUSE, LONGEST_PAUSE, Caller, reasons_of
from hbshim.messaging.zmq.directory import HostRecord, Route, Routes
from hbshim.messaging.zmq.frames import Kind
from hbshim.messaging.zmq.questions import ANSWER_WITHIN, known_routes
from hbshim.messaging.zmq.selection import name_of

#: Seconds until what is missing is left out. A proxy that has just started answers earlier.
KNOWN_WITHIN = 3.0


class Pools:
    """The pools with listeners to one topic and priority, for one notification.

    Parameters:
        key: see :func:`hbshim.messaging.zmq.frames.notification_key`.
        deadline: of ``time.monotonic()``.
    """

    def __init__(self, caller: Caller, target: Target, key: bytes, deadline: float) -> None:
        self._caller = caller
        self._target = target
        self._key = key
        self._deadline = deadline
        self._reachable = True
        self._found: dict[str, list[Route]] = {}
        # What is not known yet: listeners, and hosts by name or address.
        self._missing: set[bytes] = set()
        self._answered = False
        self._reasons = ""
        self._fresh: set[str] = set()
        # Whether something was left out, and whether it is asked all the same.
        self._left_out = self._asks_all = False

    def find(self) -> Sequence[str]:
        """Return the names of the pools that have listeners.

        Raises:
            ConnectError: the directory cannot be reached, and nothing is known of the topic; or no
                host that is known answers.
        """
        until = min(self._deadline, time.monotonic() + KNOWN_WITHIN)
        pause = FIRST_PAUSE
        self._look()
        if not self._found and self._left_out:
            # Else it would seem that there is no listener.
            self._asks_all = True
            self._look()
        while self._missing or not self._answered:
            now = time.monotonic()
            over = now >= until and self._answered
            if now >= self._deadline or (over and not self._found):
                raise ConnectError(
                    f"{described(self._target)}: none of its hosts can be reached{self._reasons}"
                )
            if over:
                self._leave_out()
                break
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            self._look()
        self._fresh = set(self._found)
        return list(self._found)

    def routes(self, pool: str) -> Routes:
        """Return the hosts that have listeners of a pool."""
        if pool in self._fresh:
            self._fresh.remove(pool)
        else:
            with contextlib.suppress(ConnectError):
                self._look()
        # While something is missing, a pool without listeners may have some.
        complete = self._reachable and not self._missing
        return Routes(tuple(self._found.get(pool, ())), complete)

    def _look(self) -> None:
        """Ask for what is not known, and note the pools."""
        routes = known_routes(self._caller, self._target, self._key, self._deadline)
        self._reachable = routes.reachable
        self._missing = set()
        self._found = {}
        listed = [route for route in routes.routes if frames.instances_of(route.instances)]
        self._ask([route for route in listed if self._unknown(route)])
        for route in listed:
            self._missing |= self._unknown(route)
            for pool, instances in self._by_pool(route).items():
                self._add(pool, Route(route.record, tuple(instances)))
        others = [route for route in routes.routes if route not in listed]
        answers = self._ask(others)
        for host, listeners in answers:
            for pool in {pool for _, pool in listeners}:
                self._add(pool, Route(host))
        self._answered = bool(listed or answers or not others)

    def _add(self, pool: str, route: Route) -> None:
        self._found.setdefault(pool, []).append(route)

    def _ask(self, routes: Sequence[Route]) -> list[tuple[HostRecord, list[tuple[bytes, str]]]]:
        """Ask proxies for their listeners; return those of each that answers."""
        caller, known = self._caller, self._caller.known_pools
        until = min(self._deadline, time.monotonic() + ANSWER_WITHIN)
        hosts = {
            name_of(route): route.record
            for route in routes
            if not self._is_left_out(name_of(route).encode())
        }
        answers = caller.question(Kind.POOLS, self._key, list(hosts.values()), until)
        self._reasons = f" ({reasons_of(answers.outcomes)})" if answers.outcomes else ""
        self._missing |= {name_of(Route(host)).encode() for host in answers.silent}
        found = []
        for host, body in answers.found:
            try:
                listeners = frames.decode_pools(body)
            except frames.FrameError:
                caller.metrics.count("zmq_malformed")
                continue
            known.remember(self._key, listeners)
            found.append((host, listeners))
        return found

    def _unknown(self, route: Route) -> set[bytes]:
        """Return the listeners of a host whose pools are not known."""
        known = self._caller.known_pools
        return {
            each
            for each in frames.instances_of(route.instances)
            if known.pool(self._key, each) is None and not self._is_left_out(each)
        }

    def _is_left_out(self, name: bytes) -> bool:
        """Return whether a listener or a host is not to be asked now."""
        if self._asks_all or not self._caller.known_pools.is_left_out(self._key, name):
            return False
        self._left_out = True
        return True

    def _by_pool(self, route: Route) -> dict[str, list[str]]:
        """Return the listeners of a host, by pool."""
        found: dict[str, list[str]] = {}
        for name in route.instances:
            pool = self._caller.known_pools.pool(self._key, bytes.fromhex(name))
            if pool is not None:
                found.setdefault(pool, []).append(name)
        return found

    def _leave_out(self) -> None:
        metrics = self._caller.metrics
        metrics.count("zmq_listeners_left_out", len(self._missing))
        detail = f"{len(self._missing)} listeners or hosts of topic {self._target.topic!r} are not "
        metrics.record("zmq-listener-left-out", "", detail + "known to their proxies, or silent")
        for each in self._missing:
            self._caller.known_pools.leave_out(self._key, each)
