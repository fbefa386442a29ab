"""Watches who is inside an SSL object, and notes when two threads are there at once.

OpenSSL forbids that (DESIGN trap 4 of hbshim). The witness stands directly before
OpenSSL, beneath whatever hbshim puts around the object, from its handshake on.
"""

from __future__ import annotations

import functools
import ssl
from typing import Any

from hbshim.runtime.unpatched import (
    allocate_lock,
    allocate_reentrant_lock,
    get_ident,
    original,
)

#: Functions of the inner SSL object that hand its session to OpenSSL.
WATCHED = ("do_handshake", "read", "write", "pending", "shutdown", "version", "cipher")


#: RFC 8446 section 5.1: a record holds at most this many bytes.
RECORD = 2**14


class WatchedSslObject:
    """Forwards everything, and reports each call into OpenSSL to the witness."""

    def __init__(self, inner: Any, witness: Witness) -> None:
        self.__dict__["_inner"] = inner
        inside: dict[object, tuple[int, str]] = {}
        lock = allocate_reentrant_lock()
        for name in WATCHED:
            self.__dict__[name] = witness.watched(getattr(inner, name), name, inside, lock)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._inner, name, value)


class Witness:
    """Counts calls and overlaps of all sessions that begin after :meth:`watch_new_sessions`.

    Parameters:
        linger: seconds to stay inside each read and write, so that who should not come
            in meanwhile has time to.
    """

    def __init__(self, linger: float = 0.0) -> None:
        self._linger = linger
        self._sleep = original("time", "sleep")
        self._books = allocate_lock()
        self._calls: dict[str, int] = {}
        self._bytes = {"read": 0, "write": 0}
        self._records_written = 0
        self._threads: set[int] = set()
        self._overlaps: list[tuple[str, str]] = []

    def watch_new_sessions(self) -> None:
        """Put a :class:`WatchedSslObject` into every SSL socket made from now on."""
        context_type: Any = ssl.SSLContext
        # eventlet's and gevent's inherit it
        context_type._wrap_socket = self.watching(context_type._wrap_socket)

    def watching(self, create: Any) -> Any:
        """Wrap a method of an SSL context that makes inner SSL objects."""

        @functools.wraps(create)
        def wrap_and_watch(context: Any, *args: Any, **kwargs: Any) -> WatchedSslObject:
            return WatchedSslObject(create(context, *args, **kwargs), self)

        return wrap_and_watch

    def watched(
        self, function: Any, name: str, inside: dict[object, tuple[int, str]], lock: Any
    ) -> Any:
        """Wrap `function` with a note of who is inside; one object's functions share `inside`.

        A signal handler may raise an exception at any instant, and leaves no note behind.
        """

        def call(*args: Any) -> Any:
            thread, token = get_ident(), object()
            try:
                inside[token] = (thread, name)
                for other, called in tuple(inside.values()):
                    if other != thread:
                        self._overlaps.append((called, name))
                # Seen is enough: two threads in OpenSSL could end the process.
                result = self._alone(lock, function, name, args)
            finally:
                inside.pop(token, None)
            self._note(name, thread, result)
            return result

        return call

    def _alone(self, lock: Any, function: Any, name: str, args: tuple[Any, ...]) -> Any:
        try:
            lock.acquire()
            if name in self._bytes and self._linger:
                self._sleep(self._linger)
            return function(*args)
        finally:
            # No other call before this one: an exception of a signal handler might follow it.
            try:  # noqa: SIM105
                lock.release()
            except RuntimeError:
                pass  # interrupted before the lock was acquired

    def _note(self, name: str, thread: int, result: Any) -> None:
        with self._books:
            self._calls[name] = self._calls.get(name, 0) + 1
            self._threads.add(thread)
            if name in self._bytes:
                size = len(result) if isinstance(result, bytes) else result
                self._bytes[name] += size
                if name == "write":
                    self._records_written += -(-size // RECORD)

    def report(self) -> dict[str, Any]:
        """Calls by name, bytes, number of threads, and the first overlaps (inside, came in)."""
        with self._books:
            return {
                "calls": dict(self._calls),
                "byte_count": dict(self._bytes),
                "records_written": self._records_written,
                "threads": len(self._threads),
                "overlaps": len(self._overlaps),
                "first": self._overlaps[:5],
            }
