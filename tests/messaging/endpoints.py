"""What the servers of these tests offer."""

from __future__ import annotations

import threading
import time
from typing import Any

from hbshim.messaging.dispatch import Request


class OddError(Exception):
    """An error of a module that clients allow, or do not."""


class Endpoint:
    """Notes what it is asked for, and by `release` lets go of who waits."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.asked: list[Any] = []
        self.contexts: list[Any] = []
        self.most = self._running = 0
        self._lock = threading.Lock()
        self.release = threading.Event()

    def echo(self, request: Request, value: Any) -> Any:
        self.asked.append(value)
        self.contexts.append(request.context)
        return value

    def repeat(self, _request: Request, times: int) -> str:
        return "x" * times

    def length(self, _request: Request, value: str) -> int:
        return len(value)

    def who(self, _request: Request) -> str:
        self.asked.append("who")
        return self.name

    def hold(self, _request: Request, value: Any = None) -> Any:
        """Returns once it is released."""
        with self._lock:
            self._running += 1
            self.most = max(self.most, self._running)
        self.asked.append(value)
        assert self.release.wait(60)
        with self._lock:
            self._running -= 1
        return value

    def count(self, request: Request, to: int) -> str:
        """Reports each number before the result."""
        for number in range(to):
            request.progress(number)
        return "counted"

    def last(self, _request: Request, seconds: float) -> str:
        time.sleep(seconds)
        return "at last"

    def raise_builtin(self, _request: Request) -> None:
        raise ValueError("a value", 7)

    def raise_odd(self, _request: Request) -> None:
        raise OddError("an oddity")

    def give_an_object(self, _request: Request) -> object:
        return object()

    def _hidden(self, _request: Request) -> str:
        return "not to be called"


class Versioned:
    """Offers a namespace in a version."""

    namespace, version = "admin", "2.3"

    def ping(self, _request: Request) -> str:
        return "pong"
