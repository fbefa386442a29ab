"""Runs the processes of a proxy, starts one that died again, and ends them in order.

Each pipeline has a process of its own, so that one that dies or hangs leaves the others as they
are. The processes end with the supervisor: each reads a pipe from it, which ends when it does.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from hbshim.errors import OptionError
from hbshim.messaging.zmq.proxy.endpoints import PROCESSES, ProcessName
from hbshim.messaging.zmq.settings import REFUSED

#: Seconds of the first and of the longest pause before a process that died is started again.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0

#: Seconds after which a process that runs counts as well: the next pause is the first again.
_WELL_AFTER = 10.0

#: Seconds beyond the grace time after which a process that does not end is killed.
_END_ALLOWANCE = 5.0


class _Process:
    """One process: its command, and when it is started again after it ended."""

    def __init__(self, name: ProcessName, command: Sequence[str], environment: Mapping[str, str]):
        self.name = name
        self._command = [*command, "--process", name, "--supervised"]
        self._environment = environment
        self._pause = FIRST_PAUSE
        self._started = 0.0
        self.running: subprocess.Popen[str] | None = None
        #: When it is started again, of ``time.monotonic()``.
        self.next_start = 0.0
        self.ready = False

    def start(self) -> None:
        self.ready = False
        self._started = time.monotonic()
        self.running = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(self._environment),
            # Ctrl-C is for the supervisor, which ends them in order.
            start_new_session=True,
        )

    def ended(self) -> None:
        """Note that it has ended; it is started again after a pause."""
        now = time.monotonic()
        if now - self._started > _WELL_AFTER:
            self._pause = FIRST_PAUSE
        self.next_start = now + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self.close()

    def close(self) -> None:
        """Forget a process that has ended."""
        if self.running is not None:
            for stream in (self.running.stdin, self.running.stdout):
                assert stream is not None
                with suppress(OSError):
                    stream.close()
            self.running = None


class Supervisor:
    """See the module.

    Parameters:
        command: starts one process, once its name is added.
        environment: of the processes.
        grace: seconds that they may take to stop.
        report: takes one line.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        grace: float,
        report: Callable[[str], None],
    ) -> None:
        self._grace = grace
        self._report = report
        self._processes = [_Process(name, command, environment) for name in PROCESSES]
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        for end in (self._wake_in, self._wake_out):
            end.setblocking(False)
        self._selector.register(self._wake_in, selectors.EVENT_READ)
        self._descriptions: dict[ProcessName, str] = {}
        self._stopping = False

    def run(self, ready: Callable[[str], None]) -> None:
        """Run the processes until SIGTERM or SIGINT; a second one ends all at once.

        Parameters:
            ready: takes what they listen at, when all of them do.

        Raises:
            OptionError: one of them could not start.
        """
        signal.set_wakeup_fd(self._wake_out.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGHUP, self._pass_on)
        # Another number than the default's "ignore": it has to wake the supervisor up.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        try:
            for process in self._processes:
                self._start(process)
            while not self._stopping and len(self._descriptions) < len(self._processes):
                self._wait(None)
                self._refuse_failed()
            if not self._stopping:
                ready(", ".join(self._descriptions[name] for name in PROCESSES))
            while not self._stopping:
                self._wait(self._restart())
            self._end()
        finally:
            self._kill()
            signal.set_wakeup_fd(-1)

    def _on_stop(self, _number: int, _frame: object) -> None:
        if self._stopping:
            # The processes end with the pipes that this one holds.
            os._exit(1)
        self._stopping = True

    def _pass_on(self, number: int, _frame: object) -> None:
        for process in self._processes:
            if process.running is not None and process.ready:
                process.running.send_signal(number)

    def _start(self, process: _Process) -> None:
        process.start()
        assert process.running is not None
        assert process.running.stdout is not None
        self._selector.register(process.running.stdout, selectors.EVENT_READ, process)

    def _start_again(self, process: _Process) -> None:
        """Start a process; where the system cannot start one now, try later."""
        try:
            self._start(process)
        except OSError as error:
            process.ended()
            self._report(f"{process.name} cannot be started now: {error.strerror}")

    def _wait(self, until: float | None) -> None:
        """Wait for a signal, a line of a process, or a time of ``time.monotonic()``."""
        left = None if until is None else max(0.0, until - time.monotonic())
        for key, _ in self._selector.select(left):
            if key.data is None:
                with suppress(BlockingIOError):
                    self._wake_in.recv(4096)
            else:
                self._read(key.data)

    def _read(self, process: _Process) -> None:
        """Take the only line of a process: what it listens at, or why it cannot."""
        assert process.running is not None
        assert process.running.stdout is not None
        line = process.running.stdout.readline().rstrip("\n")
        self._selector.unregister(process.running.stdout)
        if line.startswith(REFUSED):
            self._refused(process, line.removeprefix(REFUSED))
        elif line:
            process.ready = True
            self._descriptions[process.name] = line

    def _refused(self, process: _Process, reason: str) -> None:
        if len(self._descriptions) < len(self._processes):
            raise OptionError(reason)
        self._report(f"{process.name} cannot start: {reason}")

    def _refuse_failed(self) -> None:
        for process in self._processes:
            if process.running is not None and process.running.poll() is not None:
                self._read_last(process)
                if not process.ready:
                    raise OptionError(
                        f"the process for {process.name} ended with status "
                        f"{process.running.returncode} before it was ready; see its error above"
                    )

    def _restart(self) -> float | None:
        """Start again what has ended; return when the next one is due."""
        due: float | None = None
        for process in self._processes:
            if process.running is not None and process.running.poll() is not None:
                self._read_last(process)
                status = process.running.returncode
                process.ended()
                pause = process.next_start - time.monotonic()
                self._report(
                    f"{process.name} ended with status {status}; it starts again in {pause:.1f} s"
                )
            if process.running is None:
                if process.next_start <= time.monotonic():
                    self._start_again(process)
                if process.running is None:
                    due = min(due or process.next_start, process.next_start)
        return due

    def _read_last(self, process: _Process) -> None:
        """Take the line of a process that has ended, if it was not read yet."""
        assert process.running is not None
        if process.running.stdout in self._selector.get_map():
            self._read(process)

    def _end(self) -> None:
        """End the requests' process first: what it still forwards takes time."""
        for process in self._processes:
            if process.running is not None:
                process.running.send_signal(signal.SIGTERM)
                limit = _END_ALLOWANCE + (self._grace if process.name == "requests" else 0.0)
                with suppress(subprocess.TimeoutExpired):
                    process.running.wait(limit)

    def _kill(self) -> None:
        for process in self._processes:
            running = process.running
            if running is not None and running.poll() is None:
                running.kill()
                running.wait()
            process.close()


def notify_systemd(address: str) -> None:
    """Report to systemd that the service is ready (sd_notify(3)).

    Parameters:
        address: of its socket, from NOTIFY_SOCKET.
    """
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"READY=1", "\0" + address[1:] if address[0] == "@" else address)


def command_of_this_program() -> list[str]:
    """Return the command that starts this program again, in the same interpreter."""
    return [sys.executable, "-m", "hbshim", "zmq-proxy"]
