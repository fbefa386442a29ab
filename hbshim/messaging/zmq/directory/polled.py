"""A directory in files of this machine: what the static and the local one have in common."""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Callable
from typing import NamedTuple

from hbshim.errors import WorkerError
from hbshim.heartbeat.workers import PthreadWorker
from hbshim.messaging.zmq.directory import HostRecord, Registration, Route, Routes
from hbshim.messaging.zmq.directory.cache import NEGATIVE
from hbshim.messaging.zmq.directory.events import Events
from hbshim.messaging.zmq.directory.inheritance import Inheritable
from hbshim.runtime.unpatched import HiddenLock

#: Seconds between two checks for changes, while something watches.
POLL = 0.1

#: Seconds that a file must have been left alone for its times to show every change: a kernel
#: counts them in steps of up to 10 ms.
SETTLED = 0.05

#: Keys whose routes are kept.
_KEPT = 1000


class UnusableError(OSError):
    """A file or directory that this user alone must own, and does not."""


class Listed(NamedTuple):
    """A host that was read.

    Attributes:
        listeners: by instance.
        prefixes: of the keys that it serves, where its listeners are not known.
        ends: when its lease does; of ``time.monotonic()``.
    """

    record: HostRecord
    listeners: dict[str, Registration]
    prefixes: tuple[bytes, ...] | None
    ends: float


class PolledDirectory(Inheritable):
    """Reads files when they have changed; see :class:`hbshim.messaging.zmq.directory.Reader`.

    A lookup checks the time of a file, which takes some microseconds and no wait.

    Parameters:
        path: of the file or directory whose times change with the content.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.events = Events(path)
        # A native one, held only for a moment: renewals come from a native thread.
        self._lock = HiddenLock()
        self._listed: list[Listed] = []
        # What was found for a key, until the first of its leases ends or the files change.
        self._kept: dict[bytes, tuple[float, Routes]] = {}
        self._signature: object = None
        self._reachable = False
        self._refused: dict[tuple[bytes, str], tuple[str, float]] = {}
        self._watchers: dict[object, Callable[[], None]] = {}
        self._worker = PthreadWorker()
        self._closed = False

    def read(self) -> list[Listed]:
        """Read all hosts.

        Raises:
            OSError: they cannot be read.
        """
        raise NotImplementedError

    def routes(self, key: bytes, deadline: float) -> Routes:
        self.adopt()
        now = time.monotonic()
        with self._lock.native:
            self._refresh()
            until, kept = self._kept.get(key, (0.0, None))
            if kept is not None and now < until and not self._refused:
                return kept
            found = [
                (listed.ends, route)
                for listed in self._listed
                if listed.ends > now and (route := _route(listed, key)) is not None
            ]
            offered = [route for _, route in found if not self._is_refused(key, route, now)]
            offered.sort(key=lambda route: route.record.host)
            routes = Routes(tuple(offered), self._reachable)
            if not self._refused:
                if len(self._kept) >= _KEPT:
                    self._kept.clear()
                self._kept[key] = min((ends for ends, _ in found), default=math.inf), routes
            return routes

    def forget(self, key: bytes, host: str) -> None:
        self.adopt()
        now = time.monotonic()
        with self._lock.native:
            for listed in self._listed:
                if listed.record.host == host:
                    self._refused[key, host] = listed.record.incarnation, now + NEGATIVE

    def watch(self, on_change: Callable[[], None]) -> Callable[[], None]:
        self.adopt()
        mark = object()
        with self._lock.native:
            self._refresh()
            self._watchers[mark] = on_change
        self.start()

        def end() -> None:
            with self._lock.native:
                self._watchers.pop(mark, None)

        return end

    def close(self) -> None:
        self.adopt()
        self._closed = True
        self._worker.stop()

    def start(self) -> None:
        """Have the native thread run, or run now."""
        if self._closed:
            return
        if self._worker.running:
            self._worker.wake()
            return
        try:
            self._worker.start(self._run_once)
        except WorkerError as error:
            self.events.refused(str(error))

    def drop_inherited(self) -> None:
        self._lock = HiddenLock()
        self._worker = PthreadWorker()
        self._watchers = {}

    def work(self, now: float) -> None:
        """Do more than to check for changes, in the native thread; must not raise."""

    def announce(self) -> None:
        """Call those that watch."""
        with self._lock.native:
            watchers = list(self._watchers.values())
        for on_change in watchers:
            on_change()

    def _run_once(self) -> float | None:
        now = time.monotonic()
        self.work(now)
        with self._lock.native:
            changed = bool(self._watchers) and self._refresh()
            due = now + POLL if self._watchers else None
        if changed:
            self.announce()
        return None if self._closed else due

    def _refresh(self) -> bool:
        """Read the files if they have changed; return whether they had. With the lock held."""
        before = self._listed, self._reachable
        try:
            signature = self._read_signature()
            if signature is not None and signature == self._signature:
                return False
            self._kept.clear()
            self._listed = self.read()
            self._signature = signature
            self._drop_refused(before[0])
            self._reachable = True
            self.events.reached()
        except OSError as error:
            self._kept.clear()
            self._signature = None
            self._reachable = False
            if isinstance(error, UnusableError):
                self._listed = []
                self.events.refused(str(error))
            elif not isinstance(error, FileNotFoundError):
                self.events.lost(error.strerror or str(error))
        return (self._listed, self._reachable) != before

    def _drop_refused(self, before: list[Listed]) -> None:
        """Offer a host again that has changed more than the end of its lease."""
        if self._refused:
            unchanged = [each._replace(ends=0.0) for each in before]
            changed = {
                each.record.host
                for each in self._listed
                if each._replace(ends=0.0) not in unchanged
            }
            for at in [at for at in self._refused if at[1] in changed]:
                del self._refused[at]

    def _read_signature(self) -> object:
        """Return what changes with the content; None while it may still change unnoticed."""
        found = os.stat(self.path, follow_symlinks=False)
        if abs(time.time() - found.st_mtime) < SETTLED:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev

    def _is_refused(self, key: bytes, route: Route, now: float) -> bool:
        at = key, route.record.host
        incarnation, until = self._refused.get(at, ("", 0.0))
        if until and now >= until:
            del self._refused[at]
        return now < until and incarnation == route.record.incarnation


def _route(listed: Listed, key: bytes) -> Route | None:
    if listed.prefixes is not None:
        return Route(listed.record) if key.startswith(listed.prefixes) else None
    instances = sorted(name for name, each in listed.listeners.items() if key in each.keys)
    return Route(listed.record, tuple(instances)) if instances else None


def check_private(descriptor: int, path: str, *, is_directory: bool) -> None:
    """Check that a file belongs to this user, and that no other may use it.

    Raises:
        UnusableError: it does not, or others may.
    """
    found = os.fstat(descriptor)
    kind = stat.S_ISDIR if is_directory else stat.S_ISREG
    mode = stat.S_IMODE(found.st_mode)
    if not kind(found.st_mode):
        raise UnusableError(
            f"{path} is no {'directory' if is_directory else 'file'}; name another path"
        )
    if found.st_uid != os.geteuid() or mode & 0o077:
        wanted = "0700" if is_directory else "0600"
        raise UnusableError(
            f"{path} belongs to user {found.st_uid} with mode {mode:04o}, and must belong to user "
            f"{os.geteuid()} alone; make it {wanted}, or name another path"
        )
