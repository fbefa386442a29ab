"""Makes the directory that an address names; redis-py is loaded for no other one."""

from __future__ import annotations

import os

from hbshim.messaging.zmq.directory import Directory
from hbshim.messaging.zmq.directory.address import Address
from hbshim.messaging.zmq.directory.local import LocalDirectory
from hbshim.messaging.zmq.directory.memory import MemoryDirectory
from hbshim.messaging.zmq.directory.settings import DirectorySettings
from hbshim.messaging.zmq.directory.static import StaticDirectory


def open_directory(address: Address, settings: DirectorySettings) -> Directory:
    """Return the directory at an address; it connects when it is first used.

    ``file:`` names a file of hosts that an operator writes, if the path ends with ``.json``; else a
    folder, which the proxies of this machine write.

    Raises:
        OptionError: a file cannot be used.
        MissingExtraError: redis-py is needed and not installed.
    """
    if address.kind == "memory":
        return MemoryDirectory()
    if address.is_folder:
        return LocalDirectory(os.path.normpath(address.path), settings.expire)
    if address.kind == "file":
        return StaticDirectory(address.path, settings.ports)
    from hbshim.messaging.zmq.directory.redis import RedisDirectory

    return RedisDirectory(address, settings)
