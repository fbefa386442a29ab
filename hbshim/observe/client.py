"""Finds watch sockets, and requests the state of their processes."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from _socket import socket as NativeSocket  # noqa: N812

from hbshim.errors import WatchError
from hbshim.observe.answer import ProcessSeen, parse
from hbshim.observe.protocol import ANSWER_LIMIT, REQUEST, default_directory, peer_uid

#: Seconds to wait for an answer.
ANSWER_WITHIN = 5.0

HOW_TO_LISTEN = (
    "start the program with HBSHIM_WATCH_SOCKET=auto, or call hbshim.observe.listen() in it"
)


class ProcessGone(WatchError):  # noqa: N818 - what happened, not a fault
    """No process listens at a watch socket any longer."""


def find(target: str | None) -> list[str]:
    """Return the paths of the sockets that `target` names, in order of their process ids.

    Parameters:
        target: a socket, a directory of sockets, or a process id; None for the default
            directory of this user's processes.

    Raises:
        WatchError: there are none.
    """
    if target is None:
        return _in_directory(default_directory(os.geteuid()))
    if target.isdecimal():
        return [_of_process(int(target))]
    return _in_directory(target) if os.path.isdir(target) else [target]


def _in_directory(directory: str) -> list[str]:
    try:
        names = [name for name in os.listdir(directory) if name.endswith(".sock")]
    except FileNotFoundError:
        names = []
    except OSError as error:
        raise WatchError(
            f"{directory} cannot be read ({error.strerror}); run it as its owner"
        ) from None
    if not names:
        raise WatchError(f"no process can be watched in {directory}; {HOW_TO_LISTEN}")
    return [os.path.join(directory, name) for name in sorted(names, key=lambda n: (len(n), n))]


def _of_process(pid: int) -> str:
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
    except (OSError, ValueError):
        raise WatchError(f"there is no process {pid}") from None
    path = os.path.join(default_directory(uid), f"{pid}.sock")
    # The second is for a process with its own /tmp, for example by systemd's PrivateTmp.
    for candidate in (path, f"/proc/{pid}/root{path}"):
        if os.path.exists(candidate):
            return candidate
    raise WatchError(
        f"process {pid} has no watch socket at {path}; {HOW_TO_LISTEN}, or name its socket"
    )


def ask(path: str, within: float = ANSWER_WITHIN) -> ProcessSeen:
    """Request the state of the process that listens at `path`.

    Parameters:
        path: of the socket.
        within: seconds for everything.

    Raises:
        ProcessGone: no process listens there.
        WatchError: it belongs to another user, does not answer, or is not a process with hbshim.
    """
    deadline = time.monotonic() + within
    # A native socket, as at the other end: no hub is needed.
    with contextlib.closing(NativeSocket(socket.AF_UNIX, socket.SOCK_STREAM)) as connection:
        try:
            _connect(connection, path, deadline)
            _check_owner(connection, path)
            with contextlib.suppress(BrokenPipeError):  # it may have sent the reason
                connection.sendall(REQUEST)
            answer = _receive(connection, deadline)
        except (ConnectionRefusedError, FileNotFoundError):
            raise ProcessGone(f"no process listens at {path}; {HOW_TO_LISTEN}") from None
        except (TimeoutError, BlockingIOError):
            raise WatchError(
                f"no answer at {path} within {within:g} s; the process may be stopped, or run "
                "no Python threads (uWSGI needs --enable-threads)"
            ) from None
        except OSError as error:
            raise WatchError(
                f"{path} cannot be asked ({error.strerror or error}); "
                "run it as the user that owns the process"
            ) from None
    if not answer:
        raise WatchError(
            f"{path} closed without an answer; run the command as the user that owns the process"
        )
    return parse(answer)


def _connect(connection: NativeSocket, path: str, deadline: float) -> None:
    while True:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            connection.connect(path)
            return
        except BlockingIOError:  # so many other clients wait
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _check_owner(connection: NativeSocket, path: str) -> None:
    uid, own = peer_uid(connection), os.geteuid()
    if uid not in (0, own) and own != 0:
        raise WatchError(f"the process at {path} is of user {uid}; run the command as that user")


def _receive(connection: NativeSocket, deadline: float) -> bytes:
    answer = bytearray()
    while True:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        data = connection.recv(65536)
        if not data:
            return bytes(answer)
        answer += data
        if len(answer) > ANSWER_LIMIT:
            raise WatchError("the answer has no end; is it the right socket?")
        if time.monotonic() > deadline:
            raise TimeoutError
