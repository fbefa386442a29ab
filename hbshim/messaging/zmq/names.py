"""Looks up the names of hosts, in threads of their own.

ZeroMQ would look them up in the one thread that moves the bytes of all connections of a process:
while a name server did not answer, no heartbeat, call or reply would be sent or received.
"""

from __future__ import annotations

from _socket import SOCK_STREAM, getaddrinfo  # the native ones, whatever is patched
from collections import deque
from collections.abc import Callable

from hbshim.errors import WorkerError
from hbshim.runtime.unpatched import start_native_thread

#: Lookups at the same time; the others wait for one of them to end.
MOST = 16

#: Takes the IP addresses of a host.
Found = Callable[[list[str]], None]


class Names:
    """See the module. It belongs to the I/O thread.

    Parameters:
        post: has a function run by the I/O thread.
    """

    def __init__(self, post: Callable[[Callable[[], None]], None]) -> None:
        self._post = post
        self._waiting: dict[str, list[Found]] = {}
        self._queue: deque[str] = deque()
        self._running = 0

    def look_up(self, host: str, found: Found) -> None:
        """Call a function later with the IP addresses of a host, the preferred one first.

        It has none if the name is unknown, or the name server does not answer.
        """
        waiting = self._waiting.setdefault(host, [])
        waiting.append(found)
        if len(waiting) == 1:
            self._queue.append(host)
            self._start()

    def _start(self) -> None:
        while self._queue and self._running < MOST:
            host = self._queue.popleft()
            self._running += 1

            def run(host: str = host) -> None:
                addresses = addresses_of(host)
                self._post(lambda: self._finish(host, addresses))

            try:
                start_native_thread(run, lambda: None)
            except WorkerError:
                self._post(lambda host=host: self._finish(host, []))  # type: ignore[misc]

    def _finish(self, host: str, addresses: list[str]) -> None:
        self._running -= 1
        for found in self._waiting.pop(host):
            found(addresses)
        self._start()


def addresses_of(host: str) -> list[str]:
    """Return the IP addresses of a host, as far as the system knows."""
    try:
        found = getaddrinfo(host, None, 0, SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(each[4][0]) for each in found))
