"""What the proxies of this process want the directory to have. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field

from hbshim.messaging.zmq.directory import HostRecord, Registration


@dataclass
class Entry:
    """One host.

    Attributes:
        listeners: by instance.
        unwritten: instances that the directory may not have.
    """

    record: HostRecord
    listeners: dict[str, Registration] = field(default_factory=dict)
    unwritten: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Withdrawal:
    """Listeners that the directory is to drop.

    Attributes:
        instance: None: the host with all its listeners.
    """

    host: str
    instance: str | None
    listeners: tuple[Registration, ...]


class Ledger:
    """Hosts by name, and what of it is still to be written.

    Attributes:
        withdrawals: that are still to be written, oldest first. A registration that follows is
            written after them.
    """

    def __init__(self) -> None:
        self.hosts: dict[str, Entry] = {}
        self.withdrawals: list[Withdrawal] = []

    def register(self, record: HostRecord, registration: Registration) -> None:
        """Add a listener."""
        entry = self.hosts.get(record.host)
        if entry is None:
            entry = self.hosts[record.host] = Entry(record)
        elif entry.record != record:
            # The record is written with the listeners, see the directory's script.
            entry.record = record
            entry.unwritten.update(entry.listeners)
        before = entry.listeners.get(registration.instance)
        if before is not None and set(before.keys) - set(registration.keys):
            self.withdrawals.append(Withdrawal(record.host, before.instance, (before,)))
        entry.listeners[registration.instance] = registration
        entry.unwritten.add(registration.instance)

    def withdraw(self, host: str, instance: str | None) -> None:
        """Remove a listener, or with None the host; what is not there needs no writing."""
        entry = self.hosts.get(host)
        if entry is None:
            return
        if instance is None:
            del self.hosts[host]
            gone = tuple(entry.listeners.values())
        else:
            found = entry.listeners.pop(instance, None)
            entry.unwritten.discard(instance)
            if found is None:
                return
            gone = (found,)
        self.withdrawals.append(Withdrawal(host, instance, gone))

    def lost(self, host: str | None = None) -> None:
        """Note that the directory has lost a host, or with None all of them."""
        for name, entry in list(self.hosts.items()):
            if host in (None, name):
                entry.unwritten.update(entry.listeners)

    def keys_of(self, host: str) -> list[bytes]:
        """Return the keys that a host serves, each once."""
        entry = self.hosts.get(host)
        listeners = entry.listeners.values() if entry else ()
        return list(dict.fromkeys(key for each in listeners for key in each.keys))

    def keys(self) -> list[bytes]:
        """Return the keys that any of the hosts serves, each once."""
        return list(dict.fromkeys(key for host in self.hosts for key in self.keys_of(host)))

    def unwritten(self, host: str | None = None) -> bool:
        """Whether something is still to be written, of a host or, with None, of any."""
        return any(each.host == host or host is None for each in self.withdrawals) or any(
            entry.unwritten for name, entry in list(self.hosts.items()) if host in (None, name)
        )
