"""Non-blocking system calls that keep the GIL.

``socket.send`` and similar methods release the GIL around each call and must acquire it again,
which takes 5 ms while the main thread computes in Python: 0.8 s for 160 links that are due in one
second. These calls last microseconds, so keeping the GIL for them delays the other threads less.
They also never wait, whatever timeout a socket object has.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

SEND_FLAGS = int(socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0))


class Permit(Protocol):
    """What these calls read of :class:`hbshim.heartbeat.guard.Permit`."""

    @property
    def valid(self) -> object: ...

    @property
    def inside(self) -> object: ...


class Writers(Protocol):
    """What these calls read of :class:`hbshim.heartbeat.guard.StreamLock`."""

    @property
    def inside(self) -> object: ...


class Guard(Protocol):
    """What these calls read of :class:`hbshim.heartbeat.guard.Guard`."""

    @property
    def writers(self) -> Writers: ...

    @property
    def closed(self) -> object: ...

    @property
    def last_write(self) -> float: ...


class Calls(NamedTuple):
    """The C library's calls; each raises OSError as `socket` would.

    A call with a permit returns None, and does nothing, once the permit is revoked. Check and call
    are atomic for every other thread: no bytecode between them lets another thread run, and nothing
    is allocated that could start a garbage collection.

    Attributes:
        send: (descriptor, bytes, permit) -> bytes sent.
        send_after: (last write, guard, descriptor, bytes) -> bytes sent; 0, without sending, if a
            client is inside or has begun another write; -1 for an error. No permit is needed,
            because every operation of a client on the stream begins with a new `last_write`.
        peek: (descriptor, at most) -> the bytes, which stay in the receive queue.
        receive: (descriptor, at most, permit) -> the bytes.
        nothing_waits: (descriptor) -> whether a read would have to wait; raises nothing.
    """

    send: Callable[[int, bytes, Permit], int | None]
    send_after: Callable[[float, Guard, int, bytes], int]
    peek: Callable[[int, int], bytes]
    receive: Callable[[int, int, Permit], bytes | None]
    nothing_waits: Callable[[int], bool]


@functools.cache
def gil_keeping_calls() -> Calls | None:
    """Return the calls; None if ctypes cannot be imported.

    It is an optional module, and sub-interpreters with their own GIL refuse it. Also None if there
    is no GIL to keep.
    """
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return None
    try:
        import ctypes

        library = ctypes.PyDLL(None, use_errno=True)
        libc_send, libc_recv = library.send, library.recv
    except (ImportError, OSError, AttributeError):
        return None
    libc_send.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
    libc_recv.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    libc_send.restype = libc_recv.restype = ctypes.c_ssize_t

    peeking = socket.MSG_PEEK | socket.MSG_DONTWAIT

    def checked(result: int) -> int:
        if result < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return result

    def send(descriptor: int, data: bytes, permit: Permit) -> int | None:
        arguments = (descriptor, data, len(data), SEND_FLAGS)
        # One expression, and a tuple made before it: see the class.
        sent = libc_send(*arguments) if permit.valid and not permit.inside else None
        return sent if sent is None else checked(sent)

    def send_after(last_write: float, guard: Guard, descriptor: int, data: bytes) -> int:
        size, inside = len(data), guard.writers.inside
        sent: int = (
            libc_send(descriptor, data, size, SEND_FLAGS)
            if not inside and not guard.closed and guard.last_write is last_write
            else 0
        )
        return sent

    def peek(descriptor: int, most: int) -> bytes:
        buffer: Any = ctypes.create_string_buffer(most)
        size = checked(libc_recv(descriptor, buffer, most, peeking))
        return bytes(memoryview(buffer)[:size])

    def receive(descriptor: int, most: int, permit: Permit) -> bytes | None:
        buffer: Any = ctypes.create_string_buffer(most)
        arguments = (descriptor, buffer, most, socket.MSG_DONTWAIT)
        size = libc_recv(*arguments) if permit.valid and not permit.inside else None
        return size if size is None else bytes(memoryview(buffer)[: checked(size)])

    one_byte = ctypes.create_string_buffer(1)  # shared: its content is not used
    get_errno = ctypes.get_errno
    would_wait = (errno.EAGAIN, errno.EWOULDBLOCK)

    def nothing_waits(descriptor: int) -> bool:
        return libc_recv(descriptor, one_byte, 1, peeking) < 0 and get_errno() in would_wait

    return Calls(send, send_after, peek, receive, nothing_waits)
