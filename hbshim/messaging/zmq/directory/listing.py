"""Lists all hosts of a directory, for reports. Drivers look up single targets instead."""

from __future__ import annotations

import time

from hbshim.errors import DirectoryError
from hbshim.messaging.zmq.directory import HostRecord
from hbshim.messaging.zmq.directory.address import Address
from hbshim.messaging.zmq.directory.factory import open_directory
from hbshim.messaging.zmq.directory.polled import PolledDirectory
from hbshim.messaging.zmq.directory.settings import DirectorySettings


def list_hosts(address: Address, settings: DirectorySettings, until: float) -> list[HostRecord]:
    """Return the records of all hosts whose leases have not ended, by their names.

    Records that cannot be read are left out. It waits natively, so a patched program calls it in a
    native thread.

    Parameters:
        until: of ``time.monotonic()``; what was found by then is returned.

    Raises:
        DirectoryError: the directory cannot be reached or used.
        OptionError: a file cannot be used.
        MissingExtraError: redis-py is needed and not installed.
    """
    if address.kind in ("redis", "sentinel"):
        from hbshim.messaging.zmq.directory.hosts_in_redis import hosts_in_redis

        found = hosts_in_redis(address, settings, until)
    else:
        found = _in_files(address, settings)
    return sorted(found, key=lambda record: record.host)


def _in_files(address: Address, settings: DirectorySettings) -> list[HostRecord]:
    directory = open_directory(address, settings)
    try:
        if not isinstance(directory, PolledDirectory):
            return []
        try:
            now = time.monotonic()
            return [each.record for each in directory.read() if each.ends > now]
        except FileNotFoundError:
            raise DirectoryError(
                f"{address.name} does not exist; a proxy on this machine makes a folder, and a "
                "file of hosts is written by an operator"
            ) from None
        except OSError as error:
            raise DirectoryError(f"{address.name} cannot be read ({error})") from None
    finally:
        directory.close()
