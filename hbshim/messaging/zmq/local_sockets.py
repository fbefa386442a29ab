"""The directory in which a proxy and the servers of its host meet, and the users that may enter it.

It belongs to one user, or with ``zmq_ipc_group`` to a group of users that trust each other. Without
ZeroMQ's library.
"""

from __future__ import annotations

import contextlib
import grp
import os
import stat
from pathlib import Path

from hbshim.errors import OptionError

#: Bytes of a path that a Unix socket may have (sun_path, without the last 0).
_PATH_LIMIT = 107


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
    """Return the directory where proxy and servers of this user meet by default."""
    if os.getuid() == 0:
        return "/run/hbshim-zmq"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return f"{runtime}/hbshim-zmq" if runtime else f"/tmp/hbshim-zmq-{os.getuid()}"


def group_number(name: str) -> int:
    """Return the number of a group of users, which may be its name.

    Raises:
        OptionError: there is no such group.
    """
    if name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise OptionError(
            f"zmq_ipc_group={name!r} is no group of this system; name one, or its number"
        ) from None


def open_ipc_directory(path: str, group: int | None = None) -> int:
    """Make the directory of the local sockets if it is missing; return a descriptor of it.

    Parameters:
        group: whose users may enter it, too; a directory of this user is given to it.

    Raises:
        OptionError: it is a symbolic link, belongs to another user, or others may enter it.
    """
    try:
        Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_RDONLY)
    except OSError as error:
        raise _unusable(path, error) from None
    try:
        if group is not None and os.fstat(descriptor).st_uid == os.getuid():
            _give(descriptor, path, group)
        _check(os.fstat(descriptor), path, group)
    except OptionError:
        os.close(descriptor)
        raise
    return descriptor


def inspect_ipc_directory(path: str, group: int | None = None) -> None:
    """Check the directory of the local sockets, and change nothing.

    Raises:
        FileNotFoundError: there is none.
        OptionError: as :func:`open_ipc_directory`.
    """
    try:
        descriptor = os.open(path, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_RDONLY)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unusable(path, error) from None
    try:
        _check(os.fstat(descriptor), path, group)
    finally:
        os.close(descriptor)


def check_ipc_directory(path: str, group: int | None = None) -> None:
    """Check the directory of the local sockets before a server connects there.

    It is made if that is possible: otherwise another user could make it where all may, in /tmp.
    Where it is missing, its proxy makes it later.

    Raises:
        OptionError: as :func:`open_ipc_directory`.
    """
    with contextlib.suppress(OSError):
        Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.path.lexists(path):
        os.close(open_ipc_directory(path, group))


def open_lock(folder: int, name: str, path: str) -> int:
    """Return a descriptor of a file in the directory of the local sockets, which is to be locked.

    Parameters:
        folder: a descriptor of the directory, `path`.
        name: of what holds the lock.

    Raises:
        OptionError: it cannot be opened.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(f"{name}.lock", flags, 0o600, dir_fd=folder)
    except OSError as error:
        raise OptionError(
            f"{path}/{name}.lock cannot be opened ({error.strerror}); remove it, or name another "
            "rpc_zmq_ipc_dir"
        ) from None


def share_socket(address: str, group: int) -> None:
    """Let the users of a group connect to a local socket that was bound.

    Parameters:
        address: as :func:`ipc_path` returns it.

    Raises:
        OptionError: this user is not in the group.
    """
    path = address.removeprefix("ipc://")
    try:
        os.chown(path, -1, group)
        os.chmod(path, 0o660)
    except OSError as error:
        raise _not_given(path, group, error) from None


def _give(descriptor: int, path: str, group: int) -> None:
    try:
        os.fchown(descriptor, -1, group)
        os.fchmod(descriptor, 0o770)
    except OSError as error:
        raise _not_given(path, group, error) from None


def _unusable(path: str, error: OSError) -> OptionError:
    return OptionError(
        f"rpc_zmq_ipc_dir={path!r} cannot be used ({error.strerror}); name a directory of this "
        "user's, which is no symbolic link"
    )


def _not_given(path: str, group: int, error: OSError) -> OptionError:
    return OptionError(
        f"{path} cannot be given to zmq_ipc_group, {group} ({error.strerror}); run as a user of "
        "that group"
    )


def _check(found: os.stat_result, path: str, group: int | None) -> None:
    mode = stat.S_IMODE(found.st_mode)
    if group is None:
        if found.st_uid != os.getuid() or mode & 0o077:
            raise OptionError(
                f"rpc_zmq_ipc_dir={path!r} belongs to user {found.st_uid} with mode {mode:04o}, "
                f"and not to user {os.getuid()} alone; make it 0700, or name another"
            )
    elif found.st_gid != group or mode & 0o777 != 0o770:
        raise OptionError(
            f"rpc_zmq_ipc_dir={path!r} belongs to group {found.st_gid} with mode {mode:04o}, and "
            f"not to zmq_ipc_group, {group}; make it 0770, or name another"
        )
