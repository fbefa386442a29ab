"""What can be chosen for sockets, and where the local ones are; without ZeroMQ's library."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from hbshim.errors import OptionError

#: Acknowledged messages whose copies are recognised, by each proxy and each process of servers.
COPIES_KEPT = 100_000

#: Bytes of a path that a Unix socket may have (sun_path, without the last 0).
_PATH_LIMIT = 107


@dataclass(frozen=True, slots=True)
class SocketSettings:
    """What an operator may choose.

    Attributes:
        heartbeat_interval: T, in seconds; 0: no heartbeats.
        linger: seconds for which a closed socket still sends.
        keepalive: of TCP: on, seconds idle, probes, seconds between two probes.
        fanout_hwm: publications that wait for one subscriber.
        secret_key: turns CURVE on for the sockets of the network. Not shown by ``repr``.
    """

    heartbeat_interval: int = 10
    linger: float = 2.0
    keepalive: tuple[int, int, int, int] = (1, 10, 3, 5)
    fanout_hwm: int = 1000
    secret_key: bytes | None = field(default=None, repr=False)


def ipc_path(directory: str, name: str) -> str:
    """Return the address of a local socket.

    Raises:
        OptionError: its path is too long.
    """
    path = f"{directory.rstrip('/')}/{name}"
    if len(os.fsencode(path)) > _PATH_LIMIT:
        raise OptionError(
            f"rpc_zmq_ipc_dir={directory!r} is too long: with the name of a socket it has "
            f"{len(os.fsencode(path))} bytes, and a Unix socket may have {_PATH_LIMIT}; name a "
            "shorter one"
        )
    return f"ipc://{path}"


def default_ipc_directory() -> str:
    """Return where proxy and servers of this user meet unless they are told."""
    if os.getuid() == 0:
        return "/run/hbshim-zmq"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return f"{runtime}/hbshim-zmq" if runtime else f"/tmp/hbshim-zmq-{os.getuid()}"


def open_ipc_directory(path: str) -> int:
    """Make the directory of the local sockets if it is missing; return a descriptor of it.

    Raises:
        OptionError: it is a symbolic link, belongs to another user, or others may enter it.
    """
    try:
        Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_RDONLY)
    except OSError as error:
        raise OptionError(
            f"rpc_zmq_ipc_dir={path!r} cannot be used ({error.strerror}); name a directory of this "
            "user's, which is no symbolic link"
        ) from None
    found = os.fstat(descriptor)
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        os.close(descriptor)
        raise OptionError(
            f"rpc_zmq_ipc_dir={path!r} belongs to user {found.st_uid} with mode "
            f"{stat.S_IMODE(found.st_mode):04o}, and not to user {os.getuid()} alone; make it "
            "0700, or name another"
        )
    return descriptor
