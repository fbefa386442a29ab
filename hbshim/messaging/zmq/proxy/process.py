"""One process of a proxy: it binds, reports that it is ready, and stops on command."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
from collections.abc import Callable, Mapping

from hbshim.errors import HbshimError, OptionError
from hbshim.event_log import log_problems
from hbshim.heartbeat import service
from hbshim.messaging.zmq.local_sockets import open_ipc_directory, open_lock
from hbshim.messaging.zmq.loop import Loop
from hbshim.messaging.zmq.proxy.access import Access
from hbshim.messaging.zmq.proxy.control import ControlServer
from hbshim.messaging.zmq.proxy.endpoints import ProcessName, ProxySettings, Server
from hbshim.messaging.zmq.sockets import check_library
from hbshim.runtime import descriptors
from hbshim.runtime.unpatched import start_native_thread

#: Seconds between two times that events are logged.
_LOG_EVERY = 1.0

#: Seconds between two checks whether the parent has ended.
_PARENT_EVERY = 0.25


class EndedError(HbshimError):
    """A process of the proxy has ended by itself."""


def run(
    name: ProcessName,
    make: Callable[[Loop, Access | None], Server],
    settings: ProxySettings,
    grace: float,
    report: Callable[[str], None],
) -> None:
    """Run one process until SIGTERM or SIGINT; a second one ends it at once.

    Parameters:
        make: opens its sockets; with CURVE, what answers which clients may connect is open before.
        grace: seconds for what it still has to do when it has to stop.
        report: takes what it listens at, when it is ready.

    Raises:
        OptionError: an address or the directory of the local sockets cannot be used, or another
            proxy uses it.
        UnsupportedVersionError: the ZeroMQ library is too old.
        EndedError: it has ended by itself.
    """
    # Each connection takes one, and a router can refuse none.
    descriptors.raise_limit()
    check_library(curve=settings.sockets.secret_key is not None)
    descriptor = open_ipc_directory(settings.ipc_directory, settings.ipc_group)
    try:
        lock = take_lock(descriptor, name, settings.ipc_directory)
    finally:
        os.close(descriptor)
    try:
        loop = Loop()
        metrics = service.current().metrics
        access = None
        if settings.sockets.secret_key is not None:

            def drop_connections() -> None:
                server.drop_connections()

            keys, host = settings.allowed_keys, settings.host
            access = Access(loop, keys, host, metrics, drop_connections)
        server = make(loop, access)

        def statistics() -> Mapping[str, float] | None:
            figures = server.statistics()
            if figures is None or access is None:
                return figures
            return {**figures, **access.statistics()}

        control = ControlServer(loop, name, settings, statistics, metrics)
        # The loop runs in the only thread of this program that may log.
        loop.every(_LOG_EVERY, lambda: log_problems(metrics))

        def on_signal(_number: int, _frame: object) -> None:
            for each in (signal.SIGTERM, signal.SIGINT):
                signal.signal(each, lambda *_: os._exit(1))
            loop.post(lambda: server.stop(grace))

        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, on_signal)
        on_hangup = signal.SIG_IGN if access is None else lambda *_: loop.post(access.refresh)
        signal.signal(signal.SIGHUP, on_hangup)
        report(server.description)
        loop.run()
        control.close()
        loop.end()
        log_problems(metrics)
        if server.failed:
            raise EndedError(f"the process for {name} ended by itself")
    finally:
        os.close(lock)


def end_with_parent() -> None:
    """End this process at once when the one that holds the other end of its input has ended."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        os._exit(1)

    start_native_thread(watch, lambda: None)


def stop_with_parent(parent: int) -> None:
    """Send SIGTERM to this process once its parent has ended, or writes to its input.

    Parameters:
        parent: its process id. A forked child of it may hold the pipe, so that its end is no proof
            that the parent runs.
    """

    def watch() -> None:
        while not select.select([sys.stdin], [], [], _PARENT_EVERY)[0] and os.getppid() == parent:
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    start_native_thread(watch, lambda: None)


def take_lock(
    descriptor: int, name: str, path: str, on_wait: Callable[[], None] | None = None
) -> int:
    """Return a descriptor that holds the lock of a process of the proxy.

    Parameters:
        descriptor: of the directory of the local sockets, `path`.
        on_wait: called before it waits until another one has ended; None: it does not wait.

    Raises:
        OptionError: another one has it.
    """
    lock = open_lock(descriptor, name, path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if on_wait is not None:
            on_wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
            return lock
        os.close(lock)
        raise OptionError(
            f"another proxy uses rpc_zmq_ipc_dir={path!r}; a host has one, unless each "
            "has a directory and ports of its own"
        ) from None
    return lock
