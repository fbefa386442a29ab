"""A loop over ZeroMQ sockets: the one thread that touches them runs it.

Everything in here but :meth:`Loop.post` and :meth:`Loop.stop` belongs to that thread. The C
library aborts the process, or loses messages, where two threads use one socket.

Longer than others: all that runs in that thread is scheduled here.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import struct
import time
from _socket import socketpair
from collections import deque
from collections.abc import Callable, Sequence

import zmq

from hbshim.heartbeat import service
from hbshim.messaging.zmq.frames import ForeignVersionError, FrameError
from hbshim.messaging.zmq.names import Names
from hbshim.runtime.unpatched import original

#: Messages that are read from one socket before the next one has its turn.
BATCH = 200

#: Seconds after which the next socket has its turn, if some messages take long.
_SLICE = 0.05

#: Seconds between two rounds of housekeeping. A socket on which nothing happens keeps the
#: pipes of peers that left, until something is asked of it.
HOUSEKEEPING = 1.0

#: Seconds that the loop sleeps at most.
_LONGEST_SLEEP = 60.0

#: Seconds of a pause after an error of the poll, which may come again at once.
_PAUSE = 0.1

#: As plain numbers: operators of the library's enumerations cost more than sending a frame.
_NOBLOCK, _SNDMORE = int(zmq.NOBLOCK), int(zmq.SNDMORE)
_READABLE, _WRITABLE = int(zmq.POLLIN), int(zmq.POLLOUT)

Handler = Callable[[list[bytes]], None]

#: Takes an event of a socket's connections, its value, and the address that was connected or bound.
OnEvent = Callable[[int, int, str], None]


class Timer:
    """Calls a function later."""

    __slots__ = ("cancelled", "function")

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function
        self.cancelled = False

    def cancel(self) -> None:
        """Do not call it."""
        self.cancelled = True


class Loop:
    """Reads sockets, runs commands of other threads, and calls timers.

    A message whose handler raises a :class:`FrameError` is counted, and dropped. Another error is
    reported as an event, and the loop goes on.

    Attributes:
        names: looks up the hosts that sockets are connected to.
    """

    def __init__(self) -> None:
        self.context = zmq.Context(io_threads=1)
        # Else one process could reach about a thousand hosts.
        self.context.set(zmq.MAX_SOCKETS, self.context.get(zmq.SOCKET_LIMIT))
        self._poller = zmq.Poller()
        self._readers: dict[zmq.Socket[bytes], Handler] = {}
        self._writers: dict[zmq.Socket[bytes], Callable[[], None]] = {}
        self._sockets: dict[zmq.Socket[bytes], None] = {}
        self._monitors: dict[zmq.Socket[bytes], zmq.Socket[bytes]] = {}
        self._commands: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers, self._rounds = itertools.count(), itertools.count()
        # Native ones, whatever is patched.
        self._wake_in, self._wake_out = socketpair()
        for end in (self._wake_in, self._wake_out):
            end.setblocking(False)
        self._poller.register(self._wake_in.fileno(), _READABLE)
        self._keeping: list[Callable[[], bool]] = []
        # Sockets that are closed, or about to be, and may have something to send; and what waits
        # for the end of them.
        self._leaving: set[zmq.Socket[bytes]] = set()
        self._on_left: list[Callable[[], None]] = []
        self._sleeping = False
        self._stopped = False
        #: Nothing runs any more; see :meth:`end`.
        self.ended = False
        #: When it last began to run what is due, of ``time.monotonic()``.
        self.last_active = time.monotonic()
        self.names = Names(self.post)
        self.every(HOUSEKEEPING, self._touch)

    # -- from any thread -----------------------------------------------------

    def post(self, command: Callable[[], None]) -> None:
        """Have `command` run by the loop, soon and in order; it must not wait."""
        self._commands.append(command)
        if self._sleeping:
            # One byte is enough for all that is posted until it wakes up.
            self._sleeping = False
            try:
                self._wake()
            except BaseException:
                # An exception of a signal handler: what is posted next relies on the byte.
                self._wake()
                raise

    def stop(self) -> None:
        """End :meth:`run`."""
        self._stopped = True
        self._wake()

    def _wake(self) -> None:
        # Full: it wakes up anyway. Closed: it has ended.
        with contextlib.suppress(OSError):
            self._wake_out.send(b"\0")

    # -- in the loop ---------------------------------------------------------

    def read(self, socket: zmq.Socket[bytes], handler: Handler) -> None:
        """Have `handler` called with each message that `socket` receives."""
        self._readers[socket] = handler
        self._sockets[socket] = None
        self._poller.register(socket, _READABLE)

    def look_after(self, socket: zmq.Socket[bytes]) -> None:
        """Include a socket that receives nothing in housekeeping, and close it at the end."""
        self._sockets[socket] = None

    def finish_first(self, keeps: Callable[[], bool]) -> None:
        """Have :meth:`finish` go on while a function returns True."""
        self._keeping.append(keeps)

    def finished(self, keeps: Callable[[], bool]) -> None:
        """Undo :meth:`finish_first`."""
        with contextlib.suppress(ValueError):
            self._keeping.remove(keeps)

    def write(self, socket: zmq.Socket[bytes], on_writable: Callable[[], None] | None) -> None:
        """Have a function called when `socket` can send again; None: no more."""
        if on_writable is None:
            self._writers.pop(socket, None)
        else:
            self._writers[socket] = on_writable
        reads = _READABLE if socket in self._readers else 0
        self._poller.register(socket, reads | (_WRITABLE if on_writable else 0))

    def monitor(self, socket: zmq.Socket[bytes], events: int, on_event: OnEvent) -> None:
        """Have a function called with events of a socket's connections, see zmq_socket_monitor(3).

        Call this before the socket connects or binds. Another thread may own the socket afterwards.

        Parameters:
            events: a sum of ``zmq.EVENT_...``.
        """
        address = f"inproc://monitor-{next(self._numbers)}"
        socket.monitor(address, events)
        reader = self.context.socket(zmq.PAIR)
        # While a queue is full, ZeroMQ's own thread would wait, and with it every socket.
        reader.set(zmq.RCVHWM, 0)
        reader.connect(address)
        self._monitors[socket] = reader

        def handle(message: list[bytes]) -> None:
            event, value = struct.unpack("=HI", message[0])
            on_event(event, value, message[1].decode())

        self.read(reader, handle)

    def close(self, socket: zmq.Socket[bytes]) -> None:
        """Close a socket; what it has not sent yet, it sends within its linger time."""
        self._end_monitor(socket)
        if not socket.closed:
            self._follow(socket)
        self._release(socket)

    def leave(self, socket: zmq.Socket[bytes]) -> None:
        """Note that a socket is closed soon, once it was given what is kept for it."""
        self._leaving.add(socket)

    def when_left(self, then: Callable[[], None]) -> None:
        """Have a function called once all closed sockets have sent what they had.

        That includes those of :meth:`leave`, and ends with the linger time of each.
        """
        self._on_left.append(then)
        self._check_left()

    def _check_left(self) -> None:
        while self._on_left and not self._leaving:
            self._on_left.pop()()

    def _follow(self, socket: zmq.Socket[bytes]) -> None:
        """Note when ZeroMQ has ended a socket that is about to be closed."""
        address = f"inproc://closed-{next(self._numbers)}"
        self._leaving.add(socket)

        def left() -> None:
            self._leaving.discard(socket)
            self._check_left()

        def ended(_message: list[bytes]) -> None:
            self._release(reader)
            left()

        try:
            reader = self.context.socket(zmq.PAIR)
        except zmq.ZMQError:  # no descriptor is left
            left()
            return
        reader.set(zmq.RCVHWM, 0)
        try:
            socket.monitor(address, zmq.EVENT_MONITOR_STOPPED)
            reader.connect(address)
        except zmq.ZMQError:
            reader.close()
            left()
        else:
            self.read(reader, ended)

    def _end_monitor(self, socket: zmq.Socket[bytes]) -> None:
        reader = self._monitors.pop(socket, None)
        if reader is not None:
            # In this order: an event that nothing takes has ZeroMQ's own thread wait, too.
            stop_monitor(socket)
            self._release(reader)

    def _release(self, socket: zmq.Socket[bytes]) -> None:
        self._readers.pop(socket, None)
        self._writers.pop(socket, None)
        self._sockets.pop(socket, None)
        with contextlib.suppress(KeyError):
            self._poller.unregister(socket)
        socket.close()

    def later(self, seconds: float, function: Callable[[], None]) -> Timer:
        """Have `function` called once, in `seconds`."""
        timer = Timer(function)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), timer))
        return timer

    def every(self, seconds: float, function: Callable[[], None]) -> None:
        """Have `function` called again and again, until the loop ends."""

        def call() -> None:
            self.later(seconds, call)
            function()

        self.later(seconds, call)

    def run(self) -> None:
        """Run until :meth:`stop`. An error of the poll itself is reported, too."""
        while not self._stopped:
            try:
                self.run_once(_LONGEST_SLEEP)
            except Exception as error:
                # Every call of the process needs this thread.
                _report(error)
                original("time", "sleep")(_PAUSE)

    def run_once(self, longest: float) -> None:
        """Do what is due, after waiting for at most `longest` seconds."""
        until = time.monotonic() + longest
        if self._timers:
            until = min(until, self._timers[0][0])
        self._sleeping = True
        # After the mark: what is posted from now on writes to the pair.
        wait = 0.0 if self._commands or self._stopped else max(0.0, until - time.monotonic())
        events = self._poller.poll(int(wait * 1000) + (wait > 0))
        self._sleeping = False
        self.last_active = time.monotonic()
        if any(each == self._wake_in.fileno() for each, _ in events):
            with contextlib.suppress(BlockingIOError):
                self._wake_in.recv(4096)
        for _ in range(len(self._commands)):
            self._guarded(self._commands.popleft())
        for socket, event in self._in_turn(events):
            if event & _READABLE and socket in self._readers:
                self._read(socket)
            if event & _WRITABLE and (on_writable := self._writers.get(socket)) is not None:
                self._guarded(on_writable)
        self._call_timers()

    def _in_turn(
        self, events: list[tuple[zmq.Socket[bytes], int]]
    ) -> list[tuple[zmq.Socket[bytes], int]]:
        """Return the events with another one first in each round."""
        first = next(self._rounds) % len(events) if events else 0
        return events[first:] + events[:first]

    def _read(self, socket: zmq.Socket[bytes]) -> None:
        handler = self._readers[socket]
        until = time.monotonic() + _SLICE
        for number in range(BATCH):
            try:
                frames = receive(socket)
            except zmq.ZMQError:
                return  # nothing more
            try:
                handler(frames)
            except ForeignVersionError:
                service.current().metrics.count("zmq_version_apart")
            except FrameError:
                service.current().metrics.count("zmq_malformed")
            except Exception as error:
                _report(error)
            if socket.closed or time.monotonic() > until:
                return
            # To ask costs less than the error, and more than a message in a row of many.
            if number == 0 and not int(socket.get(zmq.EVENTS)) & _READABLE:
                return

    def _call_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if not timer.cancelled:
                self._guarded(timer.function)

    def _guarded(self, function: Callable[[], None]) -> None:
        try:
            function()
        except Exception as error:
            _report(error)

    def _touch(self) -> None:
        for socket in self._sockets:
            socket.get(zmq.EVENTS)

    def finish(self, seconds: float) -> None:
        """After :meth:`run`: do what was posted, and go on while something waits to be sent.

        Parameters:
            seconds: the longest time for it.
        """
        self._stopped = False
        until = time.monotonic() + seconds
        try:
            while self._commands or self._leaving or any(keeps() for keeps in self._keeping):
                left = until - time.monotonic()
                if left <= 0:
                    return
                self.run_once(left)
        except Exception as error:
            _report(error)

    def end(self) -> None:
        """Close what is left; wait until each socket has sent what it had, within its linger."""
        # Those that are monitored before what reads their events.
        for socket in list(self._monitors):
            self._end_monitor(socket)
        for socket in list(self._sockets):
            self._release(socket)
        self.context.destroy()
        self.ended = True
        self._leaving.clear()
        self._check_left()
        for end in (self._wake_in, self._wake_out):
            end.close()


def try_send(socket: zmq.Socket[bytes], frames: Sequence[bytes]) -> int:
    """Send a whole message without waiting; return 0, or the number of ZeroMQ's error.

    It is ``zmq.EAGAIN`` where there is no space, and ``zmq.EHOSTUNREACH`` where a router has no
    connection to the peer that the first frame names.
    """
    try:
        for frame in frames[:-1]:
            socket.send(frame, _NOBLOCK | _SNDMORE)
        socket.send(frames[-1], _NOBLOCK)
    except zmq.ZMQError as error:
        return error.errno or zmq.EAGAIN
    return 0


def receive(socket: zmq.Socket[bytes]) -> list[bytes]:
    """Return a whole message that has arrived.

    Raises:
        zmq.Again: none has.
    """
    frames = [socket.recv(_NOBLOCK)]
    while socket.get(zmq.RCVMORE):
        frames.append(socket.recv(_NOBLOCK))
    return frames


def stop_monitor(socket: zmq.Socket[bytes]) -> None:
    """End :meth:`Loop.monitor`, in the thread that owns a socket and is about to close it."""
    if not socket.closed:
        socket.monitor(None, 0)


def _report(error: Exception) -> None:
    detail = f"{type(error).__name__}: {error}"
    service.current().metrics.count("zmq_errors")
    service.current().metrics.record("zmq-error", "", detail)
