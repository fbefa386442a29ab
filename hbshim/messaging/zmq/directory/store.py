"""What is read from and written to Redis, as calls of the scripts. Used by the native thread only.

All keys have the namespace in braces, so that they belong together in a Redis Cluster, too:
``hbzmq:{default}:h:host`` is a host's record, ``hbzmq:{default}:t:key`` the set of a key's
listeners, and ``hbzmq:{default}:epoch`` shows whether the data was lost since it was last read.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from hbshim.messaging.zmq.directory import HostRecord, Route
from hbshim.messaging.zmq.directory.client import RedisClient
from hbshim.messaging.zmq.directory.events import Events
from hbshim.messaging.zmq.directory.ledger import Ledger, Withdrawal
from hbshim.messaging.zmq.directory.records import (
    RECORD_LIMIT,
    Change,
    RecordError,
    decode_member,
    decode_record,
    encode_change,
    encode_member,
    encode_record,
    escape,
)
from hbshim.messaging.zmq.directory.scripts import CLEAN, LOOKUP, REGISTER, RENEW, WITHDRAW
from hbshim.messaging.zmq.directory.settings import DirectorySettings

#: Leases that have to have ended before a listener's name is removed from the sets; a set without
#: any living host lasts for twice as many.
CLEANED_AFTER = 10

#: Renewals between two that keep the sets, too.
SETS_KEPT_EACH = 10


def prefix_of(namespace: str) -> str:
    """Return what all keys of a namespace begin with."""
    return f"hbzmq:{{{namespace}}}:"


def channel_of(namespace: str) -> str:
    """Return the channel that changes are announced on."""
    return f"{prefix_of(namespace)}changes"


class RedisStore:
    """The records of one namespace."""

    def __init__(self, client: RedisClient, settings: DirectorySettings, events: Events) -> None:
        self.client = client
        self._settings = settings
        self._events = events
        self._prefix = prefix_of(settings.namespace)
        self._renewals = 0
        self._gone: dict[bytes, list[bytes]] = {}

    @property
    def epoch_key(self) -> str:
        """The key that is lost with all others."""
        return f"{self._prefix}epoch"

    def host_key(self, host: str) -> str:
        """Return the key of a host's record."""
        return f"{self._prefix}h:{escape(host)}"

    def set_key(self, key: bytes) -> str:
        """Return the key of the set of those that listen to `key`."""
        return f"{self._prefix}t:{escape(key)}"

    def look_up(
        self, keys: Sequence[bytes]
    ) -> tuple[bytes | None, dict[bytes, list[tuple[Route, float]]]]:
        """Return the epoch, and for each key its routes with the seconds that their leases last."""
        sets = [self.set_key(key) for key in keys]
        arguments = (f"{self._prefix}h:", RECORD_LIMIT)
        epoch, members, flat = self.client.run(LOOKUP, [self.epoch_key, *sets], arguments)
        hosts: dict[str, tuple[HostRecord, float]] = {}
        for name, text, left in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
            try:
                host, _ = decode_member(name + b"|-")
                # A lease without an end is none of a proxy's.
                lasts = left / 1000 if left >= 0 else self._settings.expire
                hosts[host] = decode_record(text, host), lasts
            except RecordError as error:
                self._events.bad_record(f"host {name.decode(errors='replace')}", error)
        found = {key: self._routes(found, hosts) for key, found in zip(keys, members, strict=True)}
        return epoch, found

    def _routes(
        self, members: Iterable[bytes], hosts: dict[str, tuple[HostRecord, float]]
    ) -> list[tuple[Route, float]]:
        instances: dict[str, list[str]] = {}
        for member in members:
            try:
                host, instance = decode_member(member)
            except RecordError as error:
                self._events.bad_record("a listener", error)
                continue
            if host in hosts:
                instances.setdefault(host, []).append(instance)
        return [
            (Route(hosts[host][0], tuple(sorted(names))), hosts[host][1])
            for host, names in instances.items()
        ]

    def write(
        self, lock: AbstractContextManager[Any], ledger: Ledger, renew: Iterable[str]
    ) -> None:
        """Write what a ledger has that was not written, and renew the leases of some hosts.

        Parameters:
            lock: of the ledger; not held during I/O.
        """
        while True:
            with lock:
                withdrawal = next(iter(ledger.withdrawals), None)
            if withdrawal is None:
                break
            self._withdraw(withdrawal)
            with lock:
                ledger.withdrawals.remove(withdrawal)
        self._renewals += 1
        for host in renew:
            with lock:
                entry = ledger.hosts.get(host)
                keys = ledger.keys_of(host) if entry and not entry.unwritten else None
            if entry is not None and keys is not None and not self._renew(entry.record, keys):
                with lock:
                    ledger.lost(host)
        with lock:
            hosts = [host for host, entry in ledger.hosts.items() if entry.unwritten]
        for host in hosts:
            self._register(lock, ledger, host)

    def _register(self, lock: AbstractContextManager[Any], ledger: Ledger, host: str) -> None:
        with lock:
            entry = ledger.hosts.get(host)
            if entry is None:
                return
            record = entry.record
            written = {name: entry.listeners[name] for name in entry.unwritten}
        pairs = [(key, each.instance) for each in written.values() for key in each.keys]
        sets = [self.set_key(key) for key, _ in pairs]
        members = [encode_member(host, instance) for _, instance in pairs]
        change = Change(host, None, tuple(dict.fromkeys(key for key, _ in pairs)))
        self.client.run(
            REGISTER,
            [self.host_key(host), self.epoch_key, *sets],
            [
                encode_record(record),
                self._lease,
                self._set_lease,
                secrets.token_hex(8),
                self.client.channel,
                encode_change(change),
                *members,
            ],
        )
        with lock:
            if entry.record == record:
                entry.unwritten -= {
                    name for name, each in written.items() if entry.listeners.get(name) == each
                }

    def _renew(self, record: HostRecord, keys: Sequence[bytes]) -> bool:
        kept = keys if self._renewals % SETS_KEPT_EACH == 0 else ()
        sets = [self.set_key(key) for key in kept]
        arguments = [encode_record(record), self._lease, self._set_lease]
        return bool(
            self.client.run(RENEW, [self.host_key(record.host), self.epoch_key, *sets], arguments)
        )

    def _withdraw(self, withdrawal: Withdrawal) -> None:
        host = withdrawal.host
        pairs = [(key, each.instance) for each in withdrawal.listeners for key in each.keys]
        self.client.run(
            WITHDRAW,
            [self.host_key(host), *(self.set_key(key) for key, _ in pairs)],
            [
                int(withdrawal.instance is None),
                self.client.channel,
                encode_change(Change(host, withdrawal.instance or "")),
                *(encode_member(host, instance) for _, instance in pairs),
            ],
        )

    def clean_interval(self) -> float:
        """Return seconds until :meth:`clean` is due; proxies spread over them."""
        return CLEANED_AFTER * self._settings.expire * random.uniform(1.0, 1.5)

    def clean(self, keys: Iterable[bytes]) -> None:
        """Remove listeners from sets whose host had no record now and the last time, either."""
        last, self._gone = self._gone, {}
        for key in keys:
            arguments = [f"{self._prefix}h:", *last.get(key, ())]
            self._gone[key] = list(self.client.run(CLEAN, [self.set_key(key)], arguments))

    @property
    def _lease(self) -> int:
        return int(self._settings.expire * 1000)

    @property
    def _set_lease(self) -> int:
        return 2 * CLEANED_AFTER * self._lease
