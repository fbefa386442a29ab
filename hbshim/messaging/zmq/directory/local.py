"""A directory that the proxies of one machine write: a file for each host, in one folder.

It is the default of one machine. The folder has mode 0700 and a file
0600; a file is replaced as a whole; each host is written by one process, which holds a lock on it.
A lease ends by the machine's own monotonic clock, which all of its processes share. Where the disk
is full, the end of a lease is moved within its file, which takes no space.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

from hbshim.errors import OptionError, WorkerError
from hbshim.messaging.zmq.directory import HostRecord, Registration
from hbshim.messaging.zmq.directory.events import Events
from hbshim.messaging.zmq.directory.lease import Lease
from hbshim.messaging.zmq.directory.ledger import Entry, Ledger
from hbshim.messaging.zmq.directory.polled import (
    Listed,
    PolledDirectory,
    UnusableError,
    check_private,
)
from hbshim.messaging.zmq.directory.records import (
    RecordError,
    decode_listeners,
    encode_listeners,
    encode_record,
    escape,
    record_of,
)

#: The longest file of a host, in bytes: some ten thousand listeners.
FILE_LIMIT = 16 * 1024 * 1024

_SUFFIX = ".json"

#: How a file begins: of one length, so that the end of the lease can be overwritten.
_BEGINNING = '{{"ends": {:<25.6f}, '


class LocalDirectory(PolledDirectory):
    """See :class:`hbshim.messaging.zmq.directory.Directory`.

    Parameters:
        path: of the folder; a proxy makes it.
        lease: seconds that a host stays listed without being renewed.

    Raises:
        OptionError: the folder is there and cannot be used.
    """

    def __init__(self, path: str, lease: float) -> None:
        super().__init__(path)
        self._seconds = lease
        self._lease = Lease(lease, self._on_due)
        self._leased = False
        self._due = False
        self._ledger = Ledger()
        self._locks: dict[str, int] = {}
        # Hosts whose files are this object's.
        self._written: set[str] = set()
        # Apart from those of reading, which may work while writing does not.
        self._write_events = Events(path)
        try:
            with self._folder():
                pass
        except FileNotFoundError:
            pass
        except OSError as error:
            raise OptionError(f"the directory of this machine cannot be used: {error}") from None

    def register(self, record: HostRecord, registration: Registration, deadline: float) -> bool:
        self.adopt()
        with self._lock.native:
            self._ledger.register(record, registration)
            written = self._write(record.host)
        self._ensure_lease()
        self._announce_now()
        return written

    def withdraw(self, host: str, instance: str | None, deadline: float) -> bool:
        self.adopt()
        with self._lock.native:
            if host not in self._ledger.hosts:
                return True
            self._ledger.withdraw(host, instance)
            written = self._write(host)
        self._announce_now()
        return written

    def renew(self, host: str, deadline: float) -> bool:
        self.adopt()
        with self._lock.native:
            return host in self._ledger.hosts and self._write(host)

    def close(self) -> None:
        super().close()
        self._lease.end()
        with self._lock.native:
            # The worker may be about to renew: it finds nothing.
            self._ledger = Ledger()
            for descriptor in self._locks.values():
                os.close(descriptor)
            self._locks = {}

    def drop_inherited(self) -> None:
        super().drop_inherited()
        # Its record locks stayed with the parent; the descriptors did not.
        while self._locks:
            os.close(self._locks.popitem()[1])
        self._ledger = Ledger()
        self._written = set()
        self._leased = False
        self._lease = Lease(self._seconds, self._on_due)

    def read(self) -> list[Listed]:
        boot = boot_id()
        listed = []
        with self._folder() as folder:
            for name in sorted(os.listdir(folder)):
                if not name.endswith(_SUFFIX) or name.startswith("."):
                    continue
                try:
                    each = self._read_host(folder, name)
                except FileNotFoundError:
                    continue  # withdrawn just now
                except RecordError as error:
                    self.events.bad_record(name, error)
                    continue
                except OSError as error:
                    self.events.bad_record(name, RecordError(error.strerror or str(error)))
                    continue
                if each[1] == boot:
                    listed.append(each[0])
        return listed

    def work(self, now: float) -> None:
        if self._due:
            self._due = False
            with self._lock.native:
                for host in list(self._ledger.hosts):
                    self._write(host)

    def _on_due(self) -> None:
        self._due = True
        self.start()

    def _ensure_lease(self) -> None:
        if not self._leased:
            self._leased = True
            try:
                self._lease.start()
            except WorkerError as error:
                self.events.refused(str(error))

    def _announce_now(self) -> None:
        with self._lock.native:
            self._refresh()
        self.announce()

    def _write(self, host: str) -> bool:
        """Bring the file of a host up to date; return whether it is. With the lock held."""
        try:
            with contextlib.suppress(FileExistsError):
                Path(self.path).mkdir(mode=0o700, parents=True)
            with self._folder() as folder:
                self._take_lock(folder, host)
                entry = self._ledger.hosts.get(host)
                if entry is None:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(escape(host) + _SUFFIX, dir_fd=folder)
                    os.close(self._locks.pop(host))
                    self._written.discard(host)
                else:
                    self._replace(folder, host, entry)
                    self._written.add(host)
        except UnusableError as error:
            self._write_events.refused(str(error))
            return False
        except OSError as error:
            self._write_events.lost(error.strerror or str(error))
            self._prolong(host)
            return False
        self._ledger.withdrawals = [each for each in self._ledger.withdrawals if each.host != host]
        self._signature = None
        self._write_events.reached()
        return True

    def _prolong(self, host: str) -> None:
        """Move the end of the lease of a host whose file cannot be replaced."""
        if host not in self._written or host not in self._ledger.hosts:
            return
        with contextlib.suppress(OSError), self._folder() as folder:
            flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(escape(host) + _SUFFIX, flags, dir_fd=folder)
            try:
                os.pwrite(descriptor, self._beginning().encode(), 0)
            finally:
                os.close(descriptor)
            # Readers look at the times of the folder.
            os.utime(folder)
            self._signature = None

    def _beginning(self) -> str:
        return _BEGINNING.format(time.monotonic() + self._seconds)

    def _take_lock(self, folder: int, host: str) -> None:
        if host in self._locks:
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(escape(host) + ".lock", flags, 0o600, dir_fd=folder)
        try:
            # Not flock(), which a forked child would hold on to.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise UnusableError(
                f"another process writes the host {host} in {self.path}; give this proxy another "
                "name (rpc_zmq_host), or end the other one"
            ) from None
        self._locks[host] = descriptor

    def _replace(self, folder: int, host: str, entry: Entry) -> None:
        document = {
            "record": json.loads(encode_record(entry.record)),
            "listeners": encode_listeners(entry.listeners.values()),
            "boot": boot_id(),
        }
        name = escape(host) + _SUFFIX
        scratch = f".{name}.{os.getpid()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with contextlib.suppress(FileNotFoundError):
            os.unlink(scratch, dir_fd=folder)  # of a process that was killed
        with open(os.open(scratch, flags, 0o600, dir_fd=folder), "w") as file:
            file.write(self._beginning() + json.dumps(document)[1:])
        os.replace(scratch, name, src_dir_fd=folder, dst_dir_fd=folder)
        entry.unwritten.clear()

    def _read_host(self, folder: int, name: str) -> tuple[Listed, str]:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        with open(descriptor, "rb") as file:
            check_private(descriptor, f"{self.path}/{name}", is_directory=False)
            text = file.read(FILE_LIMIT + 1)
        return decode_host(text, name)

    @contextlib.contextmanager
    def _folder(self) -> Iterator[int]:
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self.path, flags)
        except NotADirectoryError:
            raise UnusableError(
                f"{self.path} is a symbolic link or a file; name a folder of this user's"
            ) from None
        try:
            check_private(descriptor, self.path, is_directory=True)
            yield descriptor
        finally:
            os.close(descriptor)


def decode_host(text: bytes, name: str) -> tuple[Listed, str]:
    """Return what the file of a host holds, and the boot of the machine that it was written in.

    Parameters:
        name: of the file.

    Raises:
        RecordError: it holds something else.
    """
    try:
        found = json.loads(text) if len(text) <= FILE_LIMIT else None
    except (ValueError, RecursionError):
        raise RecordError("it is no JSON") from None
    if not isinstance(found, dict) or not isinstance(found.get("record"), dict):
        raise RecordError("it has no record")
    host, ends = found["record"].get("host"), found.get("ends")
    if not isinstance(host, str) or _file_name(host) != name:
        raise RecordError("it is not the record of this host")
    if not isinstance(ends, float | int) or not math.isfinite(ends):
        raise RecordError("its lease has no end")
    record = record_of(found["record"], host)
    listeners = decode_listeners(found.get("listeners"))
    return Listed(record, listeners, None, float(ends)), str(found.get("boot"))


def _file_name(host: str) -> str | None:
    try:
        return escape(host) + _SUFFIX
    except UnicodeEncodeError:
        return None


def boot_id() -> str:
    """Return the identifier of this machine's boot; "" where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
