"""A listening Unix socket and its file.

The file is never readable by other users, not even for a moment. It replaces the file of a process
that has ended, never one at which another process listens.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from _socket import socket as NativeSocket  # noqa: N812
from collections.abc import Iterator

from hbshim.errors import WatchError
from hbshim.observe.protocol import default_directory
from hbshim.runtime.unpatched import original

#: How many clients may wait.
BACKLOG = 8

#: Seconds to wait for another process that is opening a socket in the same directory.
LOCK_WITHIN = 2.0


class SocketFile:
    """A listening socket at `path`, whose file :meth:`remove` deletes.

    Parameters:
        path: absolute. Its directory must exist, except for the default one, which is created.

    Raises:
        WatchError: it cannot be opened there.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._pid = os.getpid()
        directory = os.path.dirname(path)
        if directory == default_directory(os.geteuid()):
            _make_private(directory)
        try:
            self.native, self._identity = _open(directory, path)
        except OSError as error:
            raise WatchError(
                f"no watch socket can be opened at {path} ({error.strerror or error}); "
                "name a short path in a directory that this process may write to"
            ) from None

    @property
    def owned(self) -> bool:
        """Whether this process opened it, and is not a forked child of the one that did."""
        return os.getpid() == self._pid

    def close(self) -> None:
        """Close this process's copy of the socket; copies of other processes keep listening."""
        NativeSocket.close(self.native)

    def remove(self) -> None:
        """Delete the file, if this process created it and it is still the same."""
        if not self.owned:
            return
        with contextlib.suppress(OSError):
            if _identity(os.lstat(self.path)) == self._identity:
                os.unlink(self.path)


def _make_private(directory: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    found = os.lstat(directory)
    # Another user may have created it first, in a directory with write access for all.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise WatchError(
            f"{directory} is not a directory of this user's alone, so no watch socket is opened "
            "there; remove it, or name a path of your own with watch_socket=..."
        )


def _open(directory: str, path: str) -> tuple[NativeSocket, tuple[int, int]]:
    with _alone_in(directory):
        native = NativeSocket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Linux gives the file the mode that the socket has when it is bound. The umask would
            # also work, but it belongs to the whole process.
            os.fchmod(native.fileno(), 0o600)
            try:
                native.bind(path)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                _remove_stale(path)
                native.bind(path)
            native.listen(BACKLOG)
            return native, _identity(os.lstat(path))
        except BaseException:
            native.close()
            raise


@contextlib.contextmanager
def _alone_in(directory: str) -> Iterator[None]:
    """Keep other processes from opening a socket in `directory` at the same time.

    A socket that is bound and does not listen yet would look stale to them.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + LOCK_WITHIN
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                original("time", "sleep")(0.01)
        yield
    finally:
        # Closed separately: gevent's `os.close` waits for the hub, and the lock would be held
        # meanwhile.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _remove_stale(path: str) -> None:
    found = os.lstat(path)
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise WatchError(
            f"{path} is there already and is no socket of this user's; name another path"
        )
    probe = NativeSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.settimeout(0)
        probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
        return
    except BlockingIOError:
        pass  # so many clients wait there that it must exist
    finally:
        probe.close()
    raise WatchError(
        f"another process listens at {path}; "
        "write {pid} into the path to give each process one of its own"
    )


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
