"""Non-blocking system calls that keep the GIL.

``socket.send`` and its kin release the GIL around each call and must win it back:
5 ms a call while the main thread computes in Python, so that 160 links due in one
second would take 0.8 s of it. These calls last microseconds; keeping the GIL for
them is kinder to everybody. They also never wait, whatever timeout a socket
object has.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

SEND_FLAGS = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)


class Calls(NamedTuple):
    """The C library's calls; each raises OSError as `socket` would.

    Attributes:
        send: (descriptor, bytes) -> bytes sent.
        receive: (descriptor, at most, flags) -> the bytes.
        nothing_waits: (descriptor) -> whether a read would have to wait; raises nothing.
    """

    send: Callable[[int, bytes], int]
    receive: Callable[[int, int, int], bytes]
    nothing_waits: Callable[[int], bool]


@functools.cache
def gil_keeping_calls() -> Calls | None:
    """The calls; None where ctypes cannot be had.

    (It is an optional module, and sub-interpreters with a GIL of their own refuse it.)
    """
    try:
        import ctypes

        library = ctypes.PyDLL(None, use_errno=True)
        libc_send, libc_recv = library.send, library.recv
    except (ImportError, OSError, AttributeError):
        return None
    libc_send.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
    libc_recv.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    libc_send.restype = libc_recv.restype = ctypes.c_ssize_t

    def checked(result: int) -> int:
        if result < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return result

    def send(descriptor: int, data: bytes) -> int:
        sent: int = libc_send(descriptor, data, len(data), SEND_FLAGS)
        return sent if sent >= 0 else checked(sent)

    def receive(descriptor: int, most: int, flags: int) -> bytes:
        buffer: Any = ctypes.create_string_buffer(most)
        size = checked(libc_recv(descriptor, buffer, most, flags | socket.MSG_DONTWAIT))
        return bytes(memoryview(buffer)[:size])

    one_octet = ctypes.create_string_buffer(1)  # shared: what is in it interests nobody
    look, get_errno = socket.MSG_PEEK | socket.MSG_DONTWAIT, ctypes.get_errno
    would_wait = (errno.EAGAIN, errno.EWOULDBLOCK)

    def nothing_waits(descriptor: int) -> bool:
        return libc_recv(descriptor, one_octet, 1, look) < 0 and get_errno() in would_wait

    return Calls(send, receive, nothing_waits)
