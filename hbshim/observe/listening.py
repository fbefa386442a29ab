"""The watch socket of this process: whether it is open, and where."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import sys
import time
import warnings

from hbshim.heartbeat import service
from hbshim.observe.protocol import ANSWER_LIMIT, LINKS_AT_MOST, VERSION, resolve
from hbshim.observe.server import WatchServer
from hbshim.observe.snapshot import snapshot
from hbshim.observe.socketfile import SocketFile
from hbshim.runtime.exclusive import OCCUPIED, ExclusiveSection
from hbshim.runtime.fork import ProcessLocal
from hbshim.runtime.unpatched import allocate_reentrant_lock


class WatchWarning(UserWarning):
    """The watch socket that the options request cannot be opened."""


class _Listening:
    """The watch socket of one process.

    Attributes:
        lock: held while it is opened or closed. In a slot, so that an eventlet which patches
            later does not make it green.
        offering: the section of :func:`offer`, within the lock.
    """

    __slots__ = ("__weakref__", "lock", "offering", "refused", "server", "unreported")

    def __init__(self) -> None:
        self.lock = allocate_reentrant_lock()
        self.offering = ExclusiveSection(self.lock)
        self.server: WatchServer | None = None
        self.refused: str | None = None
        self.unreported: str | None = None

    def stop(self) -> None:
        server, self.server = self.server, None
        if server is not None:
            server.stop()


_LISTENING = ProcessLocal(_Listening, _Listening.stop)


def listen(path: str = "auto") -> str:
    """Open a Unix socket for `hbshim watch`, until this process ends.

    The socket's file has mode 0600, and only processes of this user or of root get an answer. They
    can read, and nothing else. A forked child closes its copy of the parent's socket, and calls
    this function for itself.

    Parameters:
        path: of the socket; ``{pid}`` in it stands for the process id; "auto" is the default path
            of ``hbshim watch``. Another call moves the socket.

    Returns:
        The path with everything filled in.

    Raises:
        WatchError: the socket cannot be opened, or another process listens there already.
        WorkerError: no native thread can be started here.
    """
    here, path = _LISTENING.get(), resolve(path)
    with here.lock:
        if here.server is not None and here.server.file.path == path:
            return path
        stop_listening()
        file = SocketFile(path)
        try:
            here.server = WatchServer(file, answer, _failed)
        except BaseException:
            file.remove()
            file.close()
            raise
        atexit.register(here.stop)
        return path


def stop_listening() -> None:
    """Close the watch socket of this process, if it has one, and remove its file."""
    here = _LISTENING.get()
    with here.lock:
        atexit.unregister(here.stop)
        here.stop()


def offer(setting: str) -> None:
    """Open the socket that the option ``watch_socket`` names, if it is set.

    Called repeatedly: each process of a prefork server opens its own socket. A socket that cannot
    be opened is reported once, and no error is raised. If another thread is opening the socket,
    this one does not wait for it.
    """
    if setting == "off":
        return
    here = _LISTENING.get()
    # A green thread or a signal handler of this thread may also call it.
    refusal = here.offering.run(lambda: _offer(here, setting))
    if refusal is not None and refusal is not OCCUPIED:
        # With the program's filters a warning may be an error. The event is recorded, too.
        with contextlib.suppress(WatchWarning):
            warnings.warn(refusal, WatchWarning, stacklevel=3)


def _offer(here: _Listening, setting: str) -> str | None:
    """Open the socket unless it is open, or was refused before; return the error."""
    _report_refusal(here)
    path = resolve(setting)
    if path == here.refused or (here.server is not None and here.server.file.path == path):
        return None
    try:
        listen(path)
    except Exception as error:
        refusal = str(error) or type(error).__name__
        here.refused, here.unreported = path, refusal
        _report_refusal(here)
        return refusal
    return None


def _report_refusal(here: _Listening) -> None:
    # The first connection creates the service; see service.existing().
    if here.unreported is not None and (heartbeats := service.existing()) is not None:
        heartbeats.metrics.record("watch-refused", "", here.unreported)
        here.unreported = None


def _failed(error: Exception) -> None:
    service.current().metrics.record("watch-failed", "", repr(error))


def answer() -> bytes:
    """Return the state of this process, as the socket sends it."""
    now = snapshot().as_dict()
    links = now.pop("links")
    head = {
        "protocol": VERSION,
        "pid": os.getpid(),
        "program": _program(),
        "at": time.time(),
        "links_in_all": len(links),
        **now,
    }
    # One link at a time: `json` holds the GIL while it encodes a value.
    encoded = [json.dumps(link) for link in links[:LINKS_AT_MOST]]
    document = json.dumps(head)[:-1] + ', "links": [' + ", ".join(encoded) + "]}\n"
    assert len(document) <= ANSWER_LIMIT, "a snapshot is too long to be sent"
    return document.encode("ascii")


def _program() -> str:
    # Never the arguments: they may contain a password.
    path = (getattr(sys, "argv", None) or [""])[0]
    if os.path.basename(path) == "__main__.py":
        path = os.path.dirname(path)
    return os.path.basename(path if path not in ("", "-c", "-m") else sys.executable or "python")
