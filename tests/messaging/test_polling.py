"""A listener whose thread was interrupted, at any instant, can be polled, stopped and closed."""

from __future__ import annotations

import threading
import time

import pytest

from hbshim.messaging.inbox import Received
from hbshim.messaging.joining import Part
from hbshim.messaging.polling import PollingListener
from tests.concurrency import MODEL
from tests.interrupts import interrupt_everywhere

pytestmark = pytest.mark.skipif(MODEL != "native", reason="a signal handler of Python's own")

LIMIT = 30.0


class Connection:
    """Delivers nothing."""

    def __init__(self) -> None:
        self.closed = False

    def drain(self, timeout: float) -> None:
        """Receive nothing."""

    def begin_wait(self, part: Part) -> bool:
        return True

    def wake(self) -> None:
        """Wake nothing."""

    def close(self, timeout: float) -> None:
        self.closed = True


class Listener(PollingListener[Received, Connection]):
    """Connects at once, and consumes from then on."""

    def __init__(self) -> None:
        super().__init__(acknowledge_first=True)
        self.opened: list[Connection] = []

    def _serves(self) -> bool:
        return self._consuming

    def _check_refusals(self) -> None:
        """Nothing is refused."""

    def _receive(self, left: float, *, drain: bool = True) -> None:
        if self._connection is None:
            self.opened.append(Connection())
            self._connection = self.opened[-1]
        self._consuming = True

    def _next_attempt(self) -> float:
        return 0.0

    def _stop_consuming(self) -> None:
        self._consuming = False


def poll_elsewhere(listener: Listener) -> bool:
    """Whether another thread can poll."""
    polled = threading.Event()

    def poll() -> None:
        listener.poll(0)
        polled.set()

    threading.Thread(target=poll, daemon=True).start()
    return polled.wait(LIMIT)


def test_an_interrupted_open_leaves_the_listener_usable() -> None:
    listener = Listener()

    def after() -> None:
        assert poll_elsewhere(listener)

    assert interrupt_everywhere(lambda: listener.open(1), after)


def test_an_interrupted_poll_leaves_the_listener_usable() -> None:
    listener = Listener()

    def after() -> None:
        assert poll_elsewhere(listener)

    assert interrupt_everywhere(lambda: listener.poll(0), after)


def test_an_interrupted_pause_leaves_the_listener_usable() -> None:
    listener = Listener()

    def pause() -> None:
        listener._connection, listener._consuming = Connection(), True
        listener.pause()

    def after() -> None:
        listener.resume()
        assert poll_elsewhere(listener)

    assert interrupt_everywhere(pause, after)


def test_after_an_interrupted_close_another_one_closes() -> None:
    listeners = [Listener()]

    def close() -> None:
        listener = listeners[-1]
        listener._receive(0)
        listener.close(1)

    def after() -> None:
        listener, ended = listeners[-1], threading.Event()
        listeners.append(Listener())

        def close_again() -> None:
            listener.close(LIMIT)
            ended.set()

        threading.Thread(target=close_again, daemon=True).start()
        assert ended.wait(LIMIT)
        assert all(each.closed for each in listener.opened)

    assert interrupt_everywhere(close, after)


class Slow(Listener):
    """Polls until it has to end."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = threading.Event()
        self.end = threading.Event()

    def _receive(self, left: float, *, drain: bool = True) -> None:
        super()._receive(left, drain=drain)
        self.inside.set()
        self.end.wait(LIMIT)


def test_open_and_poll_end_in_time_while_another_thread_polls() -> None:
    listener = Slow()
    polling = threading.Thread(target=listener.poll, args=(LIMIT,), daemon=True)
    polling.start()
    assert listener.inside.wait(LIMIT)
    try:
        began = time.monotonic()
        assert listener.open(0.2)  # by the thread that polls
        assert listener.poll(0.2) == []
        assert time.monotonic() - began < LIMIT / 2
    finally:
        listener.stop()
        listener.end.set()
        polling.join(LIMIT)
    assert not polling.is_alive()
