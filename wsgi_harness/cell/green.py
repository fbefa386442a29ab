"""The green libraries behind one interface; runs inside Apache.

Neither is imported before it is used: a cell has one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

Sleep = Callable[[float], object]


class Green(Protocol):
    """One green library."""

    def monkey_patch(self) -> None:
        """Patch the whole standard library."""

    def spawn(self, function: Callable[..., object], *arguments: Any) -> object:
        """Run `function` in a green thread of the calling thread's hub."""

    def sleep(self, seconds: float) -> object:
        """Let the hub run for the given seconds."""

    def in_pool(self, function: Callable[[], object]) -> object:
        """Call `function` in a native thread of the library's pool, and wait for it."""

    def native_thread(self, function: Callable[..., object], *arguments: Any) -> None:
        """Run `function` in an operating-system thread."""

    def native_sleep(self) -> Sleep:
        """Return a sleep that blocks its operating-system thread and never enters a hub."""


class Eventlet:
    """eventlet."""

    def __init__(self) -> None:
        import eventlet
        import eventlet.patcher

        self._eventlet = eventlet
        self.sleep: Sleep = eventlet.sleep

    def monkey_patch(self) -> None:
        self._eventlet.monkey_patch()

    def spawn(self, function: Callable[..., object], *arguments: Any) -> object:
        return self._eventlet.spawn(function, *arguments)

    def in_pool(self, function: Callable[[], object]) -> object:
        from eventlet import tpool

        return tpool.execute(function)

    def native_thread(self, function: Callable[..., object], *arguments: Any) -> None:
        # As oslo.messaging did.
        threading = self._eventlet.patcher.original("threading")
        threading.Thread(target=function, args=arguments, daemon=True).start()

    def native_sleep(self) -> Sleep:
        sleep: Sleep = self._eventlet.patcher.original("time").sleep
        return sleep


class Gevent:
    """gevent."""

    def __init__(self) -> None:
        import gevent
        import gevent.monkey

        self._gevent = gevent
        self.sleep: Sleep = gevent.sleep

    def monkey_patch(self) -> None:
        self._gevent.monkey.patch_all()

    def spawn(self, function: Callable[..., object], *arguments: Any) -> object:
        return self._gevent.spawn(function, *arguments)

    def in_pool(self, function: Callable[[], object]) -> object:
        return self._gevent.get_hub().threadpool.apply(function)

    def native_thread(self, function: Callable[..., object], *arguments: Any) -> None:
        self._gevent.monkey.get_original("_thread", "start_new_thread")(function, arguments)

    def native_sleep(self) -> Sleep:
        sleep: Sleep = self._gevent.monkey.get_original("time", "sleep")
        return sleep


GREEN: dict[str, Callable[[], Green]] = {"eventlet": Eventlet, "gevent": Gevent}
