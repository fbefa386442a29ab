"""Resolves host names before a deadline, which ``getaddrinfo`` cannot do.

Each lookup runs in its own thread, of the program's concurrency model, and calls the program's
``socket.getaddrinfo``. If threads are green but this function blocks (eventlet without dnspython),
the thread is a native one, so that the resolver does not block all green threads. There is at most
one lookup of a name at a time; callers that need the same name wait for the same lookup. If the
resolver does not answer, the last result is used.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import Any, TypeAlias

from hbshim.errors import ConnectError, WorkerError
from hbshim.messaging.flag import Flag
from hbshim.messaging.hosts import Host
from hbshim.runtime import unpatched

#: Seconds to wait for the resolver if an earlier result is known.
LOOKUP_LIMIT = 1.0

#: Seconds between two checks of a native thread's result.
_CHECK_EVERY = 0.02

#: How many names have their last result kept.
_REMEMBERED = 256

Addresses: TypeAlias = list[tuple[Any, ...]]

_Key: TypeAlias = tuple[int, str, int]


class _Lookup:
    """A lookup that is running or finished."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.found: Addresses | None = None
        self.error: Exception | None = None
        self.is_over = False
        # None if a native thread runs the lookup and green threads wait for it.
        self.event: Flag | None = Flag()

    def end(self, error: Exception | None = None) -> None:
        """Notify the threads that wait."""
        self.error = self.error or error
        self.is_over = True
        if self.event is not None:
            self.event.set()

    def wait(self, until: float) -> bool:
        """Wait, and return whether it is finished by `until`."""
        event = self.event
        if event is not None:
            return event.wait(max(0.0, until - time.monotonic()))
        while not self.is_over and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _CHECK_EVERY))
        return self.is_over


_under_way: dict[_Key, _Lookup] = {}
_last: dict[tuple[str, int], Addresses] = {}


def resolve(host: Host, deadline: float) -> Addresses:
    """Return the addresses of `host`, in the form of ``socket.getaddrinfo``.

    Parameters:
        host: name and port.
        deadline: of ``time.monotonic()``.

    Raises:
        ConnectError: the name cannot be resolved, or not in time.
    """
    if _is_address(host.hostname):
        return socket.getaddrinfo(host.hostname, host.port, type=socket.SOCK_STREAM)
    name = (host.hostname, host.port)
    lookup = _lookup(name)
    known = _last.get(name)
    now = time.monotonic()
    until = deadline if known is None else min(deadline, max(now, lookup.began + LOOKUP_LIMIT))
    if not lookup.wait(until):
        if known is not None:
            return known
        raise ConnectError(
            f"{host.name}: the name cannot be resolved: no answer of the resolver within "
            f"{time.monotonic() - lookup.began:.1f} s; check this machine's name servers, or "
            "give an address"
        )
    if lookup.found is not None:
        return lookup.found
    error = lookup.error
    if known is not None and isinstance(error, socket.gaierror) and error.errno == TEMPORARY:
        return known
    raise ConnectError(f"{host.name}: the name cannot be resolved ({error})") from error


#: The resolver has no answer now (RFC 3493, getaddrinfo).
TEMPORARY = socket.EAI_AGAIN


def _is_address(name: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, name.partition("%")[0])
        except (OSError, ValueError):
            continue
        return True
    return False


def _lookup(name: tuple[str, int]) -> _Lookup:
    """Return the running lookup of `name`, or a new one."""
    # A thread of the parent does not run in a forked child.
    key = (os.getpid(), *name)
    lookup = _under_way.get(key)
    if lookup is not None:
        return lookup
    mine = _Lookup()
    lookup = _under_way.setdefault(key, mine)
    if lookup is mine:
        try:
            _start(key, mine)
        except BaseException as error:
            # It may not run: a later caller must not wait for it.
            _under_way.pop(key, None)
            mine.end(ConnectError(f"the lookup was interrupted ({type(error).__name__})"))
            raise
    return lookup


def _start(key: _Key, lookup: _Lookup) -> None:
    function = socket.getaddrinfo
    if unpatched.threads_are_green() and _blocks(function):
        lookup.event = None
        try:
            unpatched.start_native_thread(lambda: _run(key, lookup, function), _nothing)
        except WorkerError:
            _run(key, lookup, function)
        return
    thread = threading.Thread(
        target=_run, args=(key, lookup, function), name="hbshim-resolver", daemon=True
    )
    try:
        unpatched.start_without_signals(thread.start)
    except RuntimeError:
        # No thread can be started: resolve in this one.
        _run(key, lookup, function)


def _run(key: _Key, lookup: _Lookup, function: Any) -> None:
    _, name, port = key
    try:
        lookup.found = function(name, port, type=socket.SOCK_STREAM)
        if len(_last) >= _REMEMBERED:
            _last.clear()
        _last[name, port] = lookup.found
    except Exception as error:
        lookup.error = error
    finally:
        _under_way.pop(key, None)
        lookup.end()


def _blocks(function: Any) -> bool:
    """Return whether `function` is the standard library's own."""
    code = getattr(function, "__code__", None)
    return code is not None and code.co_filename == socket.__file__


def _nothing() -> None:
    return None
