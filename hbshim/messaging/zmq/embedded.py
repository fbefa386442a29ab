"""A proxy that belongs to a process with servers: no command has to be started on one machine.

The proxy is `hbshim zmq-proxy` in child processes. A native thread of the process with servers
starts it, starts it again when it has died, and stops it when the last driver is closed. It also
stops by itself when that process has ended, by a signal too. Of several such processes on a
machine one has the proxy, and the others wait to take over: each tries to get a lock that the
kernel releases at the end of its holder. No fork inherits that lock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import ipaddress
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence

from hbshim.errors import OptionError
from hbshim.messaging.hosts import Host
from hbshim.messaging.zmq.directory.address import Address
from hbshim.messaging.zmq.latch import Latch
from hbshim.messaging.zmq.local_sockets import open_ipc_directory, open_lock
from hbshim.messaging.zmq.options import ZmqOptions
from hbshim.messaging.zmq.settings import REFUSED, WAITING
from hbshim.metrics import Metrics
from hbshim.runtime.fork import ProcessLocal
from hbshim.runtime.unpatched import (
    HiddenLock,
    allocate_lock,
    original,
    start_native_thread,
)

#: The option that turns it on.
OPTION = "zmq_embedded_proxy"

#: Seconds between two attempts to get the lock, and the longest pause before the proxy is started
#: again.
ATTEMPT_EVERY, LONGEST_PAUSE = 0.5, 5.0

#: Bytes of the line by which a proxy reports that it listens, or why it cannot.
_LINE_LIMIT = 4096


@dataclasses.dataclass(frozen=True, slots=True)
class EmbeddedSettings:
    """What the proxy of this machine is started with.

    Attributes:
        bind: the address that it listens at, and its ports.
        ipc_directory: of the local sockets; one proxy uses it.
        variables: of its environment; None: not set there. Not shown by ``repr``.
    """

    bind: tuple[str, ...]
    ipc_directory: str
    variables: Mapping[str, str | None] = dataclasses.field(repr=False)


def embedded_settings(hosts: Sequence[Host], options: ZmqOptions) -> EmbeddedSettings | None:
    """Return what the proxy of this process is started with; None: it has none.

    Raises:
        OptionError: the hosts or the options are those of several machines.
    """
    if not options.zmq_embedded_proxy:
        return None
    address = _loopback(hosts[0].hostname)
    if hosts[1:] or address is None:
        raise OptionError(
            f"{OPTION} is for one machine, and the URL names "
            f"{', '.join(host.name for host in hosts)}; write hbzmq://localhost/, or run "
            "hbshim zmq-proxy on each host and remove the option"
        )
    if options.rpc_zmq_bind_address != "*":
        raise OptionError(
            f"with {OPTION} the proxy listens at the address of the URL; remove "
            "rpc_zmq_bind_address"
        )
    if options.zmq_ipc_group is not None:
        raise OptionError(
            f"{OPTION} is for the processes of one user; remove zmq_ipc_group, or run "
            "hbshim zmq-proxy and remove the option"
        )
    directory = options.fanout_ds_address
    if directory is not None and not directory.is_folder:
        raise OptionError(
            f"{OPTION} is for one machine, and fanout_ds_address is no folder of it; remove it, "
            "or run hbshim zmq-proxy on each host and remove the option"
        )
    if options.zmq_curve_secret_key_file and not options.zmq_curve_allowed_keys:
        raise OptionError(
            f"{OPTION} with zmq_curve_secret_key_file needs zmq_curve_allowed_keys: a file of the "
            "public keys of clients, or *"
        )
    values: dict[str, object] = {name: getattr(options, name) for name in _names()}
    values |= {"rpc_zmq_bind_address": address, "zmq_call_port": hosts[0].port}
    prefix = options.environment_prefix
    variables = {f"{prefix}{name.upper()}": _text(value) for name, value in values.items()}
    ports = {**options.ports(), "call": hosts[0].port}.values()
    bind = (address, *map(str, ports))
    return EmbeddedSettings(bind, options.rpc_zmq_ipc_dir, variables)


def _names() -> list[str]:
    """Return the names of the options that a proxy may read."""
    return [name for name in ZmqOptions.__annotations__ if name != OPTION]


def _text(value: object) -> str | None:
    if isinstance(value, Address):
        return f"file://{value.path}"
    return None if value is None else str(value)


def _loopback(name: str) -> str | None:
    """Return the address of this machine that a name stands for, as ZeroMQ writes it."""
    if name == "localhost":
        return "127.0.0.1"
    try:
        found = ipaddress.ip_address(name)
    except ValueError:
        return None
    if not found.is_loopback:
        return None
    return f"[{found}]" if found.version == 6 else str(found)


class EmbeddedProxy:
    """One driver's use of the proxy. The first one of a process starts it, the last one stops it.

    Raises:
        OptionError: this process has a proxy with other ports already, or cannot start one.
    """

    def __init__(self, settings: EmbeddedSettings, metrics: Metrics) -> None:
        self._left = False
        keepers = _keepers.get()
        with keepers.lock.native:
            keeper = keepers.by_directory.get(settings.ipc_directory)
            if keeper is None:
                keeper = _Keeper(settings, metrics)
                keeper.start()
                keepers.by_directory[settings.ipc_directory] = keeper
            elif keeper.settings.bind != settings.bind:
                raise OptionError(
                    f"this process has a proxy at {' '.join(keeper.settings.bind)}, and not at "
                    f"{' '.join(settings.bind)}; one rpc_zmq_ipc_dir has one proxy"
                )
            keeper.users += 1
        self._keepers, self._keeper = keepers, keeper

    @property
    def refusal(self) -> str | None:
        """Why the proxy cannot listen; None: it does, or another one may run here."""
        return self._keeper.refusal

    @property
    def decided(self) -> bool:
        """Whether it is known which proxy runs here, or that none can."""
        return self._keeper.decided

    def leave(self, deadline: float) -> None:
        """Stop the proxy if no other driver of this process uses it, and wait until it has ended.

        It forwards replies to calls that run, for longer than the deadline if need be.
        """
        with self._keepers.lock.native:
            if self._left:
                return
            self._left = True
            self._keeper.users -= 1
            if self._keeper.users:
                return
            del self._keepers.by_directory[self._keeper.settings.ipc_directory]
        ended = Latch()
        try:
            self._keeper.stop(ended)
            ended.wait(deadline)
        finally:
            ended.close()


class _Keepers:
    """Those of one process, by the directory of local sockets."""

    def __init__(self) -> None:
        self.lock = HiddenLock()
        self.by_directory: dict[str, _Keeper] = {}


def _drop(inherited: _Keepers) -> None:
    for keeper in inherited.by_directory.values():
        keeper.drop_inherited()


_keepers: ProcessLocal[_Keepers] = ProcessLocal(_Keepers, _drop)


class _Keeper:
    """The thread that has the proxy, or waits for the one that has it to end."""

    def __init__(self, settings: EmbeddedSettings, metrics: Metrics) -> None:
        self.settings = settings
        self.users = 0
        self.refusal: str | None = None
        self.decided = False
        self._metrics = metrics
        self._command = [_interpreter(), "-m", "hbshim", "zmq-proxy"]
        self._command += ["--embedded-in", str(os.getpid())]
        self._stopping = False
        self._on_end: Latch | None = None
        # Taken while there is nothing to do; released by what stops the thread.
        self._pause = allocate_lock()
        self._pause.acquire()
        self._guard = HiddenLock()
        self._lock: int | None = None
        # The ends of the pipes from and to the proxy.
        self._pipes: tuple[int, int] | None = None

    def start(self) -> None:
        start_native_thread(self._run, self._ask_to_stop)

    def stop(self, ended: Latch) -> None:
        self._on_end = ended
        self._ask_to_stop()

    def drop_inherited(self) -> None:
        """Close a parent's descriptors, in its forked child."""
        for descriptor in (self._lock, *(self._pipes or ())):
            if descriptor is not None:
                os.close(descriptor)

    def _ask_to_stop(self) -> None:
        with self._guard.native:
            if self._stopping:
                return
            self._stopping = True
            self._write_stop()
        self._pause.release()

    def _write_stop(self) -> None:
        """Have the proxy stop, if it runs."""
        if self._pipes is not None:
            with contextlib.suppress(OSError):  # it has ended just now
                original("os", "write")(self._pipes[1], b"\0")

    def _run(self) -> None:
        pause = ATTEMPT_EVERY
        while not self._stopping:
            began = time.monotonic()
            try:
                if self._take_lock():
                    self._run_proxy()
            except (OSError, OptionError) as error:
                self._refuse(str(error))
            if time.monotonic() - began > LONGEST_PAUSE or self.refusal is None:
                pause = ATTEMPT_EVERY
            if self._pause.acquire(timeout=pause):
                break
            pause = min(2 * pause, LONGEST_PAUSE)
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)
        if self._on_end is not None:
            self._on_end.open(done=True)

    def _take_lock(self) -> bool:
        """Return whether the proxy of this machine is this process's."""
        if self._lock is None:
            folder = open_ipc_directory(self.settings.ipc_directory)
            try:
                self._lock = open_lock(folder, "embedded", self.settings.ipc_directory)
            finally:
                os.close(folder)
        try:
            # Not flock(), which a forked child would hold on to.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.refusal = None
            self.decided = True
            return False
        return True

    def _run_proxy(self) -> None:
        """Start the proxy; return when it has ended."""
        pid, pipes = self._spawn()
        with self._guard.native:
            self._pipes = pipes
            if self._stopping:
                self._write_stop()
        ready = False
        try:
            line = b""
            while found := original("os", "read")(pipes[0], _LINE_LIMIT):
                line += found
                if line.endswith(b"\n"):
                    ready = self._on_line(line.decode(errors="replace").strip())
                    line = b""
        finally:
            with self._guard.native:
                self._pipes = None
            for end in pipes:
                os.close(end)
            try:
                _, status = original("os", "waitpid")(pid, 0)
            except ChildProcessError:
                status = 0  # a program that waits for every child has its status
        if self._stopping or self.refusal is not None:
            return
        ended = f"it ended with status {os.waitstatus_to_exitcode(status)}"
        if ready:
            self._record(f"{ended}, and is started again")
        else:
            self._refuse(f"{ended} before it was ready; see its error above")

    def _on_line(self, line: str) -> bool:
        """Take what the proxy reports; return whether it listens."""
        if line.startswith(REFUSED):
            self._refuse(line.removeprefix(REFUSED))
            return False
        self.refusal = None
        self.decided = True
        return line != WAITING

    def _refuse(self, reason: str) -> None:
        if reason != self.refusal:
            self._record(reason)
        self.refusal = reason
        self.decided = True

    def _record(self, detail: str) -> None:
        self._metrics.record("zmq-embedded-proxy", self.settings.bind[0], detail)

    def _spawn(self) -> tuple[int, tuple[int, int]]:
        """Start the proxy; return its process id, and the pipes from and to it.

        By posix_spawn(3), and not by `subprocess`, which eventlet and gevent replace. The process
        may be large, and have threads: nothing of it is copied.
        """
        environment = dict(os.environ)
        environment.pop("NOTIFY_SOCKET", None)  # systemd's, for the program alone
        for name, value in self.settings.variables.items():
            environment.pop(name, None)
            if value is not None:
                environment[name] = value
        pipes = [*os.pipe(), *os.pipe()]
        standard_input, to_proxy, from_proxy, standard_output = pipes
        actions = [
            (os.POSIX_SPAWN_DUP2, standard_input, 0),
            (os.POSIX_SPAWN_DUP2, standard_output, 1),
            # What another library left open to its children, such as the port of a web server.
            *((os.POSIX_SPAWN_CLOSE, each) for each in _inheritable()),
        ]
        try:
            pid: int = original("os", "posix_spawn")(
                self._command[0],
                self._command,
                environment,
                file_actions=actions,
                setsigmask=(),
                setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
            )
        except OSError:
            os.close(to_proxy)
            os.close(from_proxy)
            raise
        finally:
            os.close(standard_input)
            os.close(standard_output)
        return pid, (from_proxy, to_proxy)


def _inheritable() -> list[int]:
    found = []
    for name in os.listdir("/dev/fd"):
        descriptor = int(name)
        try:
            if descriptor > 2 and os.get_inheritable(descriptor):
                found.append(descriptor)
        except OSError:
            continue  # that of the listing, or closed meanwhile
    return found


def _interpreter() -> str:
    """Return the command of this Python, which a program that embeds Python does not name.

    Raises:
        OptionError: there is none.
    """
    name = os.path.basename(sys.executable or "")
    if name.startswith(("python", "pypy")):
        return sys.executable
    beside = os.path.join(sys.prefix, "bin", "python3")
    if os.path.exists(beside):
        return beside
    raise OptionError(
        f"{OPTION} needs the command of this Python, and there is no {beside}; run "
        "hbshim zmq-proxy and remove the option"
    )
