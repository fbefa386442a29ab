"""The kernel's information about one connection, and the eight bytes of a heartbeat.

Both protocols, AMQP 0-9-1 and 1.0, have heartbeats of that length.

Everything here is non-blocking and works on the operating-system socket beneath the client's green
socket, if it has one, so that a native thread may call it.

Longer than others: every request to the kernel, with the limits of its answer, is here.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
import sys
import termios

# `socket.socket` may be eventlet's or gevent's; the C type beneath is never patched, and its
# methods work on every subclass without entering a hub.
from _socket import socket as NativeSocket  # noqa: N812
from collections.abc import Callable
from typing import Any, NamedTuple

from hbshim.heartbeat.guard import Guard, Permit
from hbshim.heartbeat.syscalls import SEND_FLAGS, gil_keeping_calls

#: AMQP 0-9-1 section 4.2.7: frame type 8, channel 0, empty payload, frame-end 0xCE.
HEARTBEAT_FRAME = b"\x08\x00\x00\x00\x00\x00\x00\xce"


class HeartbeatFormat(NamedTuple):
    """The heartbeat of one protocol.

    Attributes:
        protocol: its name, for reports.
        frame: the heartbeat that is sent; no other frame of the protocol is that short.
        fixed: the number of its first bytes by which a received one is recognized.
    """

    protocol: str
    frame: bytes
    fixed: int

    def matches(self, data: bytes) -> bool:
        """Return whether `data` is one heartbeat."""
        return len(data) == len(self.frame) and data.startswith(self.frame[: self.fixed])

    def count_in_front(self, data: bytes) -> int:
        """Return the number of whole heartbeats with which `data` begins."""
        size, prefix = len(self.frame), self.frame[: self.fixed]
        end = 0
        while end + size <= len(data) and data.startswith(prefix, end):
            end += size
        return end // size


AMQP_0_9_1 = HeartbeatFormat("AMQP 0-9-1", HEARTBEAT_FRAME, len(HEARTBEAT_FRAME))

#: AMQP 1.0, 2.4.5 and 2.3.1: a frame of 8 bytes, whose body would begin at byte 2 * 4, of type 0
#: (AMQP). The channel, its last two bytes, may be any.
AMQP_1_0 = HeartbeatFormat("AMQP 1.0", b"\x00\x00\x00\x08\x02\x00\x00\x00", 6)

#: The most heartbeats taken off the receive queue in one check.
DRAIN_AT_MOST = 512

# <linux/tcp.h> struct tcp_info: state, unacked segments, ms since last data
# sent / ack sent / data received / ack received, and bytes not sent yet (4.6+).
_TCP_INFO = struct.Struct("=B23xI16xIIII84xI")
# The same without the ages of acknowledgements.
_IDLENESS = struct.Struct("=B23xI16xI4xI88xI")
# The same: segment size for sending, path MTU, advertised segment size. None of them is 0 on a
# connection of Linux; other kernels with its format leave out what they do not have.
_NEVER_ZERO = struct.Struct("=16xI40xI20xI60x")
_TCP_INFO_OPTION = 11
_ESTABLISHED = 1
# As plain numbers: `socket` has enumerations, which cost more to pass on.
_IPPROTO_TCP, _SOL_SOCKET = int(socket.IPPROTO_TCP), int(socket.SOL_SOCKET)
_CLOSE, _CLOSE_WAIT = 7, 8
_PEER_GONE = frozenset({_CLOSE, _CLOSE_WAIT, 9, 11})  # LAST_ACK, CLOSING
# As a number: builds of Python may lack the name although the kernel has the option.
_USER_TIMEOUT = 18 if sys.platform == "linux" else None

# Linux: SIOCOUTQ under its other name, whose number `termios` has for each architecture.
_SIOCOUTQ = termios.TIOCOUTQ if sys.platform == "linux" else None
_SO_NWRITE = 0x1024  # macOS: bytes in the send buffer
# <linux/sock_diag.h>: memory in use for receiving, and the most that may be (4.12+).
_SO_MEMINFO = 55 if sys.platform == "linux" else None
_MEMINFO = struct.Struct("=II28x")
# <asm-generic/socket.h>: a number that no other socket of this machine has or gets (4.12+).
_SO_COOKIE = 57 if sys.platform == "linux" else None
#: Below this size of the receive buffer (bytes) the kernel may announce its window without scaling,
#: in whole segments and down to 0, even if few bytes are unread.
_SCALED_BUFFER = 128 * 1024
_INT = struct.Struct("=i")
#: Errors of a kernel that does not have an option.
_NOT_SUPPORTED = frozenset({errno.EINVAL, errno.ENOTTY, errno.ENOPROTOOPT, errno.EOPNOTSUPP})


_fileno = NativeSocket.fileno
_getsockopt = NativeSocket.getsockopt


class KernelView(NamedTuple):
    """The content of ``TCP_INFO``. Ages in seconds.

    `queued` is 0 only if everything is acknowledged; `in_flight` counts segments that were sent and
    are not acknowledged.
    """

    peer_closed: bool
    queued: int
    in_flight: int
    sent_ago: float
    received_ago: float
    acked_ago: float


class DescriptorReusedError(OSError):
    """The number of the descriptor no longer belongs to the connection's socket."""


def _cookie(native: socket.socket) -> bytes:
    # Keeps the GIL, unlike `os.fstat`.
    assert _SO_COOKIE is not None
    return _getsockopt(native, _SOL_SOCKET, _SO_COOKIE, 8)


def _inode(native: socket.socket) -> tuple[int, int]:
    found = os.fstat(_fileno(native))
    return found.st_dev, found.st_ino


class HeartbeatTornError(Exception):
    """A part of a heartbeat was sent, so nothing else may follow."""


def acting(permit: Permit, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function that releases the GIL, for an engine with this permit.

    A client that acquires the stream lock meanwhile waits for the call to end, within a limit.

    Returns:
        What `function` returns; None, without calling it, if the permit is revoked.
    """
    token = object()
    try:
        permit.acting.add(token)
        if len(permit.acting) > 1:
            return None  # another engine is stuck in this call
        return function(*args) if permit.valid and not permit.inside else None
    finally:
        permit.acting.discard(token)


def _written(address: Any) -> str:
    if isinstance(address, tuple):
        return f"{address[0]}:{address[1]}"
    return str(address) or "unix"  # of a client, which has no path


class Wire:
    """One connected TCP socket, used beneath the client library.

    Parameters:
        native: the operating-system socket. Referenced, so that its own ``close()`` cannot free the
            descriptor's number while this object still writes. Before each use it is checked
            whether the program has closed the number by ``os.close()``.
        heartbeat: the protocol's.
        tcp_info: False: do without ``TCP_INFO``, as on other platforms.

    Attributes:
        heartbeat: the protocol's.
        has_tcp_info: ages come from the kernel; otherwise the guard counts.
        tcp_info_unusable: this kernel has ``TCP_INFO`` but does not fill it in.
    """

    #: How a heartbeat is sent, for reports.
    route = "plain"

    def __init__(
        self,
        native: socket.socket,
        *,
        heartbeat: HeartbeatFormat = AMQP_0_9_1,
        tcp_info: bool = True,
    ) -> None:
        self.native = native
        self.heartbeat = heartbeat
        self._frame = heartbeat.frame
        self.tcp_info_unusable = False
        self.has_tcp_info = tcp_info and self._try_tcp_info()
        self._identity_of, self._identity = self._identify()

    def _try_tcp_info(self) -> bool:
        if sys.platform != "linux" or self.native.family == socket.AF_UNIX:
            return False
        try:
            answer = NativeSocket.getsockopt(
                self.native, socket.IPPROTO_TCP, _TCP_INFO_OPTION, _TCP_INFO.size
            )
        except OSError as error:
            self.tcp_info_unusable = error.errno != errno.EBADF
            return False
        filled_in = len(answer) == _TCP_INFO.size and all(_NEVER_ZERO.unpack(answer))
        self.tcp_info_unusable = not filled_in
        return filled_in

    def distrust_tcp_info(self) -> None:
        """Do without ``TCP_INFO`` from now on: its ages do not grow."""
        self.has_tcp_info = False
        self.tcp_info_unusable = True

    def _identify(self) -> tuple[Callable[[socket.socket], object], object]:
        try:
            if any(cookie := _cookie(self.native)):
                return _cookie, cookie
        except (OSError, AssertionError):
            pass  # another kernel
        try:
            return _inode, _inode(self.native)
        except OSError:
            return _inode, None  # closed already

    @property
    def reused(self) -> bool:
        """Whether the descriptor was closed without the socket object.

        Its number may belong to another connection of the program by now. One system call.
        """
        try:
            return self._identity_of(self.native) != self._identity
        except OSError:
            return not self.closed

    def require_own_socket(self) -> None:
        """Check that the descriptor still belongs to this connection.

        Raises:
            DescriptorReusedError: it does not.
        """
        if self.reused:
            raise DescriptorReusedError(
                errno.EBADF, "the descriptor was closed behind the connection's back"
            )

    def name(self) -> str:
        """Both addresses, as RabbitMQ's management names the connection; of a Unix socket, paths.

        Raises:
            OSError: the socket is not connected.
        """
        here, there = NativeSocket.getsockname(self.native), NativeSocket.getpeername(self.native)
        return f"{_written(here)} -> {_written(there)}"

    @property
    def closed(self) -> bool:
        """Whether the descriptor is closed."""
        return bool(NativeSocket.fileno(self.native) < 0)

    def kernel_view(self) -> KernelView:
        """Return ages and queue from ``TCP_INFO``; one system call, which keeps the GIL.

        Raises:
            OSError: the socket is closed.
        """
        state, unacked, sent, _, received, acked, unsent = _TCP_INFO.unpack(
            _getsockopt(self.native, socket.IPPROTO_TCP, _TCP_INFO_OPTION, _TCP_INFO.size)
        )
        return KernelView(
            state in _PEER_GONE,
            unacked + unsent,
            unacked,
            sent / 1000,
            received / 1000,
            acked / 1000,
        )

    def plainly_idle(self, sent_ago: float, received_ago: float) -> bool:
        """Return whether the connection is healthy and idle.

        It is established, everything is acknowledged, nothing was sent for `sent_ago` seconds or
        more, and something was received less than `received_ago` seconds ago.

        It reads what :meth:`kernel_view` returns, without making an object.

        Raises:
            OSError: the socket is closed.
        """
        state, unacked, sent, received, unsent = _IDLENESS.unpack(
            _getsockopt(self.native, _IPPROTO_TCP, _TCP_INFO_OPTION, _IDLENESS.size)
        )
        return (
            state == _ESTABLISHED
            and not unacked
            and not unsent
            and sent >= sent_ago * 1000
            and received < received_ago * 1000
        )

    def queued(self) -> int:
        """Return the bytes that are not acknowledged yet (``SIOCOUTQ``; macOS: unsent ones).

        0 if the platform does not report it: a heartbeat is then tried, and may be delayed.
        """
        try:
            if _SIOCOUTQ is not None:
                return self._ioctl(_SIOCOUTQ)
            return int(NativeSocket.getsockopt(self.native, socket.SOL_SOCKET, _SO_NWRITE))
        except OSError as error:
            if error.errno in _NOT_SUPPORTED:
                return 0
            raise

    def unread(self) -> int:
        """Return the bytes that the client has not read yet (``FIONREAD``).

        1 if the platform does not report it: unread bytes may be the cause of the peer's silence.
        """
        try:
            return self._ioctl(termios.FIONREAD)
        except OSError as error:
            if error.errno in _NOT_SUPPORTED:
                return 1
            raise

    def unread_in_the_way(self) -> int:
        """Return the unread bytes that may have closed the receive window; 0 for none.

        While less than half of the buffer is in use, Linux never closes the window: the peer can
        send, and the unread bytes are not the cause of its silence.
        """
        waiting = self.unread()
        return waiting if waiting and self._window_may_be_closed() else 0

    def _window_may_be_closed(self) -> bool:
        if _SO_MEMINFO is None:
            return True
        try:
            answer = NativeSocket.getsockopt(
                self.native, socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size
            )
            used, most = _MEMINFO.unpack(answer)
        except (OSError, struct.error):
            return True
        # Called while bytes are unread, which use memory: 0 cannot be right.
        return bool(used == 0 or most < _SCALED_BUFFER or 2 * used >= most)

    def _ioctl(self, request: int) -> int:
        answer = fcntl.ioctl(NativeSocket.fileno(self.native), request, b"\0\0\0\0")
        return int(_INT.unpack(answer)[0])

    def send_if_idle(
        self, sent_ago: float, received_ago: float, guard: Guard, last_write: float
    ) -> bool:
        """Send one heartbeat frame if the connection is healthy and idle, by the fastest path.

        Without a permit: at the moment of the system call no client is inside, and none has written
        `last_write` was read.

        Parameters:
            sent_ago, received_ago: as for :meth:`plainly_idle`.
            guard: the guard of the connection.
            last_write: of the guard, read before everything else that allows the heartbeat.

        Returns:
            False if it was not idle, or the platform does not allow it.

        Raises:
            HeartbeatTornError: only a part of it was sent.
            OSError: the connection is closed.
        """
        calls = gil_keeping_calls()
        if calls is None or self._identity_of is not _cookie:
            return False
        if not self.plainly_idle(sent_ago, received_ago) or _cookie(self.native) != self._identity:
            return False
        sent = calls.send_after(last_write, guard, _fileno(self.native), self._frame)
        if 0 < sent < len(self._frame):
            raise HeartbeatTornError
        return sent > 0

    def send_heartbeat(self, permit: Permit) -> bool:
        """Send one heartbeat frame; the caller has checked that the send queue is empty.

        With an empty queue all eight bytes are always sent. False: not now.

        Raises:
            HeartbeatTornError: only a part of it was sent.
            OSError: the connection is closed, or its descriptor belongs to another one.
        """
        self.require_own_socket()
        try:
            sent = self.send_some(self._frame, permit)
        except BlockingIOError:
            return False
        if sent is not None and sent != len(self._frame):
            raise HeartbeatTornError
        return sent is not None

    def send_some(self, data: bytes, permit: Permit) -> int | None:
        """Pass bytes to the kernel, as many as it takes; None, and none, if the permit is revoked.

        Raises:
            BlockingIOError: it takes none.
            OSError: the connection is closed.
        """
        if (calls := gil_keeping_calls()) is not None:
            return calls.send(_fileno(self.native), data, permit)
        sent: int | None = acting(permit, NativeSocket.send, self.native, data, SEND_FLAGS)
        return sent

    def take_heartbeats(self, permit: Permit) -> int:
        """Take whole heartbeat frames off the front of the receive queue.

        The caller has checked that no reader of the client is inside, and that the stream is at a
        frame boundary. Stops at the first byte of anything else.

        Returns:
            The number of frames taken.

        Raises:
            OSError: the connection is closed, or its descriptor belongs to another one.
        """
        self.require_own_socket()
        size = len(self._frame)
        count = self.heartbeat.count_in_front(self._peek(size * DRAIN_AT_MOST))
        # With the permit under which they were peeked: no client has read since.
        return count if count and self._receive(count * size, permit) else 0

    def _peek(self, most: int) -> bytes:
        try:
            if (calls := gil_keeping_calls()) is not None:
                return calls.peek(_fileno(self.native), most)
            # A socket object with a timeout would wait for data in spite of MSG_DONTWAIT; with data
            # available it does not.
            if not self.unread():
                return b""
            seen: bytes = NativeSocket.recv(
                self.native, most, socket.MSG_PEEK | socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            return b""
        return seen

    def _receive(self, most: int, permit: Permit) -> bytes | None:
        if (calls := gil_keeping_calls()) is not None:
            return calls.receive(_fileno(self.native), most, permit)
        taken: bytes | None = acting(
            permit, NativeSocket.recv, self.native, most, socket.MSG_DONTWAIT
        )
        return taken

    def nothing_waits(self) -> bool:
        """Return whether a read would certainly wait: no byte, end or error has arrived."""
        calls = gil_keeping_calls()
        return calls is not None and calls.nothing_waits(NativeSocket.fileno(self.native))

    def why_closed(self) -> str:
        """Return in one sentence what ended the connection, as the kernel reports it."""
        try:
            state = self._tcp_state() if self.has_tcp_info else _CLOSE_WAIT
            if state != _CLOSE:
                return "the broker closed the connection"
            error = _getsockopt(self.native, socket.SOL_SOCKET, socket.SO_ERROR)
        except OSError as gone:
            error = gone.errno or 0
        if error == errno.ETIMEDOUT:
            return (
                "the network did not deliver what was sent, and this kernel gave the "
                "connection up (ETIMEDOUT)"
            )
        if error == errno.ECONNRESET:
            return "the connection was reset, by the broker or something on the way (ECONNRESET)"
        if error:
            return f"this kernel gave the connection up: {os.strerror(error)}"
        return "the connection ended, and the client has had the kernel's reason for it"

    def _tcp_state(self) -> int:
        answer: bytes = _getsockopt(self.native, socket.IPPROTO_TCP, _TCP_INFO_OPTION, 1)
        return answer[0]

    @property
    def user_timeout(self) -> float | None:
        """Return the seconds until the kernel gives up on unacknowledged bytes.

        None if it has no such option, 0 for the kernel's default.
        """
        if _USER_TIMEOUT is None:
            return None
        try:
            return _getsockopt(self.native, socket.IPPROTO_TCP, _USER_TIMEOUT) / 1000
        except OSError:
            return None

    @user_timeout.setter
    def user_timeout(self, seconds: float) -> None:
        assert _USER_TIMEOUT is not None
        with contextlib.suppress(OSError):  # closed, or not over TCP
            self.require_own_socket()
            NativeSocket.setsockopt(
                self.native, socket.IPPROTO_TCP, _USER_TIMEOUT, round(seconds * 1000)
            )

    def peer_closed(self) -> bool:
        """Return whether the stream has ended here; for platforms without TCP_INFO."""
        if NativeSocket.gettimeout(self.native):
            return False  # a read with a timeout is running, and will find it itself
        try:
            ahead = NativeSocket.recv(self.native, 1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        return not ahead

    def shut_write(self) -> None:
        """Make the client's next write fail at once; unread bytes can still be read."""
        self._shutdown(socket.SHUT_WR)

    def shut_both(self) -> None:
        """Make the client's next call fail at once, and wake up a blocked reader."""
        self._shutdown(socket.SHUT_RDWR)

    def _shutdown(self, how: int) -> None:
        try:
            self.require_own_socket()
            NativeSocket.shutdown(self.native, how)
        except OSError:
            # Already closed or reset: the client's next call fails by itself.
            return

    def drop(self) -> None:
        """Close this process's copy of the descriptor: no FIN, no TLS close, no connection.close.

        For a forked child; the parent's connection stays open. A number that belongs to another
        connection by now is not closed.
        """
        if self.reused:
            NativeSocket.detach(self.native)
        else:
            NativeSocket.close(self.native)
