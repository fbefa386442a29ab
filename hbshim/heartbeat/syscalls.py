"""``send`` without giving the GIL away.

``socket.send`` releases the GIL around the system call and must win it back: 5 ms
for each beat while the main thread computes in Python, so that 160 links due in
one second would take 0.8 s of it. A non-blocking send of eight bytes lasts
microseconds; keeping the GIL for it is kinder to everybody. It also never waits,
whatever timeout the socket object has.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable

#: (descriptor, bytes) -> bytes sent
Send = Callable[[int, bytes], int]

FLAGS = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)


@functools.cache
def gil_keeping_send() -> Send | None:
    """The C library's ``send``; None where ctypes cannot be had.

    (It is an optional module, and sub-interpreters with a GIL of their own refuse it.)
    """
    try:
        import ctypes

        libc_send = ctypes.PyDLL(None, use_errno=True).send
    except (ImportError, OSError, AttributeError):
        return None
    libc_send.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
    libc_send.restype = ctypes.c_ssize_t
    get_errno = ctypes.get_errno

    def send(descriptor: int, data: bytes) -> int:
        sent: int = libc_send(descriptor, data, len(data), FLAGS)
        if sent < 0:
            error = get_errno()
            raise OSError(error, os.strerror(error))
        return sent

    return send
