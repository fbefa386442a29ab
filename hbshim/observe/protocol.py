"""The protocol of the watch socket: a request of one line, and a JSON document as the answer.

A client connects, sends :data:`REQUEST`, and reads until the end of the stream. There is no other
request, so a client cannot change the process.
"""

from __future__ import annotations

import os
import socket
import struct
from _socket import socket as NativeSocket  # noqa: N812
from typing import Any

from hbshim.errors import WatchError

#: Version of the answer's format; increased when a field changes its meaning or is removed.
VERSION = 1

REQUEST = b"hbshim watch 1\n"

#: The longest answer in bytes: that of some 30 000 links.
ANSWER_LIMIT = 16 * 1024 * 1024

#: The most links in one answer; further ones are counted, not shown.
LINKS_AT_MOST = 10_000

_UCRED = struct.Struct("=iII")  # <linux/socket.h>: pid, uid, gid


def default_directory(uid: int) -> str:
    """Return the directory of the sockets of `uid`'s processes, by default."""
    return os.path.join(os.environ.get("TMPDIR") or "/tmp", f"hbshim-{uid}")


def resolve(setting: str) -> str:
    """Return the path of this process's socket.

    Parameters:
        setting: ``auto``, or a path in which ``{pid}`` stands for the process id.
    """
    if setting == "auto":
        setting = os.path.join(default_directory(os.geteuid()), "{pid}.sock")
    return os.path.abspath(os.path.expanduser(setting.replace("{pid}", str(os.getpid()))))


def peer_uid(connection: Any) -> int:
    """Return the user id of the process at the other end, as the kernel recorded it.

    Raises:
        WatchError: this platform does not report it.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        raise WatchError(
            "this platform does not report the user at the other end of a Unix socket, so "
            "watching works on Linux only; call hbshim.status() in the program instead"
        )
    answer = NativeSocket.getsockopt(connection, socket.SOL_SOCKET, option, _UCRED.size)
    _, uid, _ = _UCRED.unpack(answer)
    return int(uid)
