"""A directory in Redis, on one server or behind Sentinels.

One native thread owns the connections. It writes what proxies register, renews leases, looks up
what callers wait for, and keeps known routes up to date. Callers read memory; they wait for the
thread only for a key of which nothing is known. Nothing here waits inside a green hub.
"""

from __future__ import annotations

import contextlib
import math
import time
from _socket import socketpair
from collections.abc import Callable, Iterator, Sequence

from hbshim.errors import DirectoryError, WorkerError
from hbshim.messaging.backoff import pauses
from hbshim.messaging.zmq.directory import HostRecord, Registration, Routes
from hbshim.messaging.zmq.directory.address import Address
from hbshim.messaging.zmq.directory.cache import RouteCache
from hbshim.messaging.zmq.directory.client import ERRORS, RedisClient, wait_readable
from hbshim.messaging.zmq.directory.events import Events
from hbshim.messaging.zmq.directory.inheritance import Inheritable
from hbshim.messaging.zmq.directory.lease import Lease
from hbshim.messaging.zmq.directory.ledger import Ledger
from hbshim.messaging.zmq.directory.records import RecordError, decode_change
from hbshim.messaging.zmq.directory.settings import RENEWALS, DirectorySettings
from hbshim.messaging.zmq.directory.store import RedisStore, channel_of
from hbshim.messaging.zmq.latch import Latch
from hbshim.runtime.unpatched import HiddenLock, start_native_thread

#: Seconds that no pause before another try to connect exceeds, nor the time between two renewals.
LONGEST_PAUSE = 5.0

#: Seconds for which an idle thread sleeps at most.
LONGEST_SLEEP = 60.0


class RedisDirectory(Inheritable):
    """See :class:`hbshim.messaging.zmq.directory.Directory`.

    A forked child keeps the routes that were known, reads with a connection of its own, and
    neither renews nor writes what its parent registered.
    """

    def __init__(self, address: Address, settings: DirectorySettings) -> None:
        super().__init__()
        self._address = address
        self._settings = settings
        self.events = Events(address.name)
        self._cache = RouteCache(settings.expire)
        self._closed = False
        self._start_afresh()

    def _start_afresh(self) -> None:
        settings = self._settings
        # A native one, held only for a moment, and never during I/O.
        self._lock = HiddenLock()
        self._store = RedisStore(
            RedisClient(self._address, channel_of(settings.namespace), settings.socket_timeout),
            settings,
            self.events,
        )
        self._ledger = Ledger()
        self._lease: Lease | None = None
        self._watchers: dict[object, Callable[[], None]] = {}
        # Keys to look up, with those that wait for it; and those that wait for what
        # was registered and withdrawn before.
        self._lookups: dict[bytes, list[Latch]] = {}
        self._writes: list[Latch] = []
        self._renew: set[str] = set()
        self._renew_all = False
        self._reachable = False
        self._running = False
        # A lease that its owner cannot renew meanwhile must not end for it.
        self._often = settings.expire / RENEWALS
        self._pauses = self._new_pauses()
        self._retry_at = self._opened_at = -math.inf
        self._refresh_at = math.inf
        self._clean_at = math.inf
        self._wake_in, self._wake_out = socketpair()
        for end in (self._wake_in, self._wake_out):
            end.setblocking(False)

    # -- called by the program, in any thread ---------------------------------

    def routes(self, key: bytes, deadline: float) -> Routes:
        self._ensure()
        with self._lock.native:
            found = self._cache.find(key, time.monotonic())
            if found is not None:
                return Routes(found, self._reachable)
        in_time = self._wait_for_lookup(key, deadline)
        with self._lock.native:
            return Routes(self._cache.peek(key), in_time and self._reachable)

    def forget(self, key: bytes, host: str) -> None:
        self.adopt()
        with self._lock.native:
            self._cache.forget(key, host, time.monotonic())

    def watch(self, on_change: Callable[[], None]) -> Callable[[], None]:
        self._ensure()
        mark = object()
        with self._lock.native:
            self._watchers[mark] = on_change
        self._wake()

        def end() -> None:
            with self._lock.native:
                self._watchers.pop(mark, None)

        return end

    def register(self, record: HostRecord, registration: Registration, deadline: float) -> bool:
        self._ensure()
        with self._lock.native:
            self._ledger.register(record, registration)
            lease = None
            if self._lease is None:
                lease = self._lease = Lease(self._settings.expire, self._on_due)
        if lease is not None:
            self._start_lease(lease)
        return self._wait_for_write(deadline)

    def withdraw(self, host: str, instance: str | None, deadline: float) -> bool:
        self._ensure()
        with self._lock.native:
            self._ledger.withdraw(host, instance)
            if not self._ledger.unwritten(host):
                return True
        return self._wait_for_write(deadline)

    def renew(self, host: str, deadline: float) -> bool:
        self._ensure()
        with self._lock.native:
            if host not in self._ledger.hosts:
                return False
            self._renew.add(host)
        return self._wait_for_write(deadline)

    def close(self) -> None:
        self.adopt()
        self._closed = True
        if self._lease is not None:
            self._lease.end()
        self._wake()
        with self._lock.native:
            if not self._running:  # it was never used; else the thread closes them
                self._wake_in.close()
                self._wake_out.close()

    def _start_lease(self, lease: Lease) -> None:
        try:
            lease.start()
        except WorkerError as error:
            self.events.refused(str(error))

    def drop_inherited(self) -> None:
        # The parent's connections lose a descriptor here, and no byte is sent on them.
        self._store.client.close()
        self._wake_in.close()
        self._wake_out.close()
        self._cache.lost()
        self._start_afresh()

    def _ensure(self) -> None:
        """Have the thread run."""
        self.adopt()
        with self._lock.native:
            if self._running or self._closed:
                return
            self._running = True
        try:
            start_native_thread(self._run, self.close)
        except WorkerError as error:
            self._running = False
            self.events.refused(str(error))

    def _wake(self) -> None:
        # Full: there is a byte already. Closed: the thread has ended.
        with contextlib.suppress(OSError):
            self._wake_out.send(b"\0")

    def _wait_for_lookup(self, key: bytes, deadline: float) -> bool:
        latch = Latch()
        try:
            with self._lock.native:
                self._lookups.setdefault(key, []).append(latch)
            self._wake()
            return self._running and latch.wait(deadline)
        finally:
            latch.close()

    def _wait_for_write(self, deadline: float) -> bool:
        latch = Latch()
        try:
            with self._lock.native:
                self._writes.append(latch)
            self._wake()
            return self._running and latch.wait(deadline) and latch.done
        finally:
            latch.close()

    def _on_due(self) -> None:
        """In the heartbeat engine's thread, which does no I/O for it."""
        # A mark, and no set: the directory's thread may iterate over both.
        self._renew_all = True
        self._wake()

    # -- the thread -----------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closed:
                try:
                    due = self._run_once()
                except ERRORS as error:
                    due = self._lost(error)
                except Exception as error:
                    # A fault of this module must not end the thread: leases would end with it.
                    due = self._lost(DirectoryError(f"an error inside hbshim: {error!r}"))
                self._sleep(due)
        finally:
            self._running = False
            self._store.client.close()
            self._answer_all()
            self._wake_in.close()
            self._wake_out.close()

    def _run_once(self) -> float:
        """Do what is due; return when there is more."""
        now = time.monotonic()
        client = self._store.client
        if not client.is_open:
            if now < self._retry_at:
                self._answer_all()
                return self._retry_at
            self._reconnect()
        client.check_master(now)
        changed = self._read_announcements()
        self._write()
        changed |= self._look_up(time.monotonic())
        if changed:
            self._announce()
        return self._next_due()

    def _reconnect(self) -> None:
        self._store.client.open()
        with self._lock.native:
            # Whatever was written before may be lost.
            self._ledger.lost()
            self._reachable = True
        self._opened_at = time.monotonic()
        self._refresh_at = -math.inf
        self._clean_at = self._opened_at + self._store.clean_interval()
        self.events.reached()

    def _lost(self, error: BaseException) -> float:
        was_open, was_reachable = self._store.client.is_open, self._reachable
        self._store.client.close()
        with self._lock.native:
            self._cache.lost()
            self._reachable = False
        if isinstance(error, DirectoryError):
            self.events.refused(str(error))
        else:
            self.events.lost(str(error) or type(error).__name__)
        now = time.monotonic()
        if was_open and now - self._opened_at > LONGEST_PAUSE:
            # It worked: another try at once, and pauses only from then on.
            self._pauses = self._new_pauses()
            self._retry_at = now
        else:
            self._retry_at = now + next(self._pauses)
        if was_reachable:
            self._announce()
        return self._retry_at

    def _new_pauses(self) -> Iterator[float]:
        return pauses(self._settings.wait_timeout, min(LONGEST_PAUSE, self._often))

    def _sleep(self, due: float) -> None:
        left = min(due - time.monotonic(), LONGEST_SLEEP)
        if left > 0 and not self._closed:
            wait_readable((self._wake_in.fileno(), self._store.client.descriptor()), left)
        with contextlib.suppress(OSError):
            self._wake_in.recv(4096)

    def _write(self) -> None:
        with self._lock.native:
            writes, self._writes = self._writes, []
            renew, self._renew = self._renew, set()
            if self._renew_all:
                self._renew_all = False
                renew.update(self._ledger.hosts)
        try:
            self._store.write(self._lock.native, self._ledger, renew)
        except BaseException:
            with self._lock.native:
                self._renew |= renew & self._ledger.hosts.keys()
                self._writes[:0] = writes
            raise
        for latch in writes:
            latch.open(done=True)
        if time.monotonic() >= self._clean_at:
            self._clean_at = time.monotonic() + self._store.clean_interval()
            with self._lock.native:
                keys = self._ledger.keys()
            self._store.clean(keys)

    def _look_up(self, now: float) -> bool:
        with self._lock.native:
            lookups, self._lookups = self._lookups, {}
            wanted = set(lookups)
            if now >= self._refresh_at:
                self._cache.drop_unused(now)
                wanted.update(self._cache.keys)
        changed = False
        try:
            if wanted or now >= self._refresh_at:
                changed = self._put(sorted(wanted))
        except BaseException:
            with self._lock.native:
                for key, latches in lookups.items():
                    self._lookups.setdefault(key, [])[:0] = latches
            raise
        for latches in lookups.values():
            for latch in latches:
                latch.open(done=True)
        return changed

    def _put(self, keys: Sequence[bytes]) -> bool:
        epoch, found = self._store.look_up(keys)
        now = time.monotonic()
        with self._lock.native:
            self._cache.reached(epoch, now)
            changed = [self._cache.put(key, routes, now) for key, routes in found.items()]
            ends = self._cache.next_end(now)
        # Shortly after the end of a lease, to see that it was not renewed; and so often that a
        # directory which hangs is not believed.
        due = min(self._settings.update, ends - now + 0.05, self._often)
        self._refresh_at = now + max(due, min(0.1, self._often))
        return any(changed)

    def _read_announcements(self) -> bool:
        changed = False
        for text in self._store.client.announcements():
            try:
                change = decode_change(text)
            except RecordError as error:
                self.events.bad_record("an announcement", error)
                continue
            with self._lock.native:
                if change.gone is not None:
                    changed |= self._cache.withdraw(change.host, change.gone)
                    continue
                for key in self._cache.added(change.host, change.keys):
                    self._lookups.setdefault(key, [])
            # Also if no key in it is known here: a caller may wait for one that is not known.
            changed = True
        return changed

    def _next_due(self) -> float:
        with self._lock.native:
            if self._lookups or self._writes or self._renew or self._renew_all:
                return -math.inf
            has_hosts = bool(self._ledger.hosts)
        return min(self._refresh_at, self._clean_at if has_hosts else math.inf)

    def _answer_all(self) -> None:
        """Let those go on that wait for what cannot be done now."""
        with self._lock.native:
            latches = [latch for each in self._lookups.values() for latch in each]
            latches += self._writes
            self._lookups, self._writes = {}, []
        for latch in latches:
            latch.open(done=False)

    def _announce(self) -> None:
        with self._lock.native:
            watchers = list(self._watchers.values())
        for on_change in watchers:
            on_change()
