"""The process of a proxy: it binds, reports that it is ready, and stops when it is told."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import time
from collections.abc import Callable

from hbshim.errors import OptionError
from hbshim.event_log import log_problems
from hbshim.heartbeat import service
from hbshim.messaging.zmq.directory import Directory
from hbshim.messaging.zmq.loop import Loop
from hbshim.messaging.zmq.proxy.requests import ProxySettings, RequestProxy
from hbshim.messaging.zmq.settings import open_ipc_directory
from hbshim.messaging.zmq.sockets import check_library

#: Seconds between two times that events are logged.
_LOG_EVERY = 1.0

#: Seconds for the last withdrawal, which the directory may have missed when it was announced.
_WITHDRAW_WITHIN = 2.0


def run(
    settings: ProxySettings,
    directory: Directory | None,
    grace: float,
    report: Callable[[str], None],
) -> None:
    """Run a proxy until SIGTERM or SIGINT; a second one ends it at once.

    Parameters:
        directory: where it registers the host; closed at the end. None: it does not.
        grace: seconds for what it still has to do when it is told to stop.
        report: takes one line when it is ready.

    Raises:
        OptionError: an address or the directory of the local sockets cannot be used, or another
            proxy uses it.
        UnsupportedVersionError: the ZeroMQ library is too old.
    """
    check_library()
    descriptor = open_ipc_directory(settings.ipc_directory)
    try:
        _lock(descriptor, settings.ipc_directory)
        loop = Loop()
        metrics = service.current().metrics
        proxy = RequestProxy(loop, settings, directory, metrics)
        # The loop runs in the only thread of this program that may log.
        loop.every(_LOG_EVERY, lambda: log_problems(metrics))

        def on_signal(_number: int, _frame: object) -> None:
            for each in (signal.SIGTERM, signal.SIGINT):
                signal.signal(each, lambda *_: os._exit(1))
            loop.post(lambda: proxy.stop(grace, loop.stop))

        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, on_signal)
        report(f"ready: host {settings.host}, calls at {proxy.address}")
        _notify_systemd()
        loop.run()
        loop.end()
        if directory is not None:
            directory.withdraw(settings.host, None, time.monotonic() + _WITHDRAW_WITHIN)
        log_problems(metrics)
    finally:
        os.close(descriptor)
        if directory is not None:
            directory.close()


def _lock(descriptor: int, path: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise OptionError(
            f"another proxy uses rpc_zmq_ipc_dir={path!r}; a host has one, unless each has a "
            "directory and ports of its own"
        ) from None


def _notify_systemd() -> None:
    """Report to systemd, where it started this process and asks for it (sd_notify(3))."""
    address = os.environ.pop("NOTIFY_SOCKET", "")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"READY=1", "\0" + address[1:] if address[0] == "@" else address)
