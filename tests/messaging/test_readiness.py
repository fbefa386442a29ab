"""Waiting for a descriptor, or for a wake-up, in whichever concurrency model runs the tests."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from hbshim.messaging.readiness import Readiness, wait_writable
from tests.full_queues import fill
from tests.waiting import wait_until

LONG = 30.0


class Waiter(threading.Thread):
    """Waits once, in a thread of the program's own kind."""

    def __init__(self, readiness: Readiness) -> None:
        super().__init__()
        self.readiness = readiness
        self.readable: bool | None = None

    def run(self) -> None:
        self.readable = self.readiness.wait(LONG)

    def ends(self) -> bool:
        """Whether the wait ended long before its own time."""
        self.join(LONG / 3)
        return not self.is_alive()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    yield near, far
    near.close()
    far.close()


@pytest.fixture
def readiness(pair: tuple[socket.socket, socket.socket]) -> Iterator[Readiness]:
    readiness = Readiness(pair[0].fileno())
    yield readiness
    readiness.close()


@pytest.fixture
def waiter(readiness: Readiness) -> Iterator[Waiter]:
    waiter = Waiter(readiness)
    waiter.start()
    wait_until(lambda: readiness._waiting)
    yield waiter
    readiness.close()
    waiter.join()


def test_nothing_to_read(readiness: Readiness) -> None:
    began = time.monotonic()
    assert readiness.wait(0.05) is False
    assert time.monotonic() - began >= 0.045


def test_data(pair: tuple[socket.socket, socket.socket], readiness: Readiness) -> None:
    pair[1].send(b"x")
    assert readiness.wait(LONG) is True
    pair[0].recv(1)
    assert readiness.wait(0) is False


def test_the_other_side_hangs_up(
    pair: tuple[socket.socket, socket.socket], readiness: Readiness
) -> None:
    pair[1].close()
    assert readiness.wait(LONG) is True


def test_data_for_one_who_waits(pair: tuple[socket.socket, socket.socket], waiter: Waiter) -> None:
    pair[1].send(b"x")
    assert waiter.ends()
    assert waiter.readable is True


def test_waking_one_who_waits(waiter: Waiter) -> None:
    waiter.readiness.wake()
    assert waiter.ends()
    assert waiter.readable is False
    assert waiter.readiness.take_wake()


def test_a_wake_up_before_the_wait_ends_it(readiness: Readiness) -> None:
    readiness.wake()
    began = time.monotonic()
    assert readiness.wait(LONG) is False
    assert time.monotonic() - began < LONG / 3


def test_a_wake_up_that_nobody_takes_does_not_make_later_waits_spin(readiness: Readiness) -> None:
    readiness.wake()
    readiness.wait(LONG)
    readiness.wake()
    began = time.monotonic()
    assert readiness.wait(0.05) is False
    assert time.monotonic() - began >= 0.045
    assert readiness.take_wake()
    assert not readiness.take_wake()


def test_closing_ends_the_wait_and_closes_the_descriptor_last(waiter: Waiter) -> None:
    open_then: list[bool] = []
    waiter.readiness.close(lambda: open_then.append(waiter.readiness._waiting))
    assert waiter.ends()
    assert open_then == [False]
    assert waiter.readable is False


def test_closing_leaves_no_descriptor(pair: tuple[socket.socket, socket.socket]) -> None:
    def pipes() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = pipes()
    readiness = Readiness(pair[0].fileno())
    assert pipes() > before
    readiness.wait(0)
    readiness.close()
    readiness.close()
    readiness.wake()
    assert pipes() == before
    assert readiness.wait(LONG) is False


def test_waiting_until_bytes_can_be_sent(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    assert wait_writable(near.fileno(), LONG)
    fill(near)
    assert not wait_writable(near.fileno(), 0.05)
    far.setblocking(False)
    with pytest.raises(BlockingIOError):
        while far.recv(1 << 20):
            pass
    assert wait_writable(near.fileno(), LONG)


def test_notified_of_a_wake_up_that_is_not_there(
    readiness: Readiness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As eventlet does where a descriptor's number is that of one just closed."""
    wake_in = readiness._wake_in.fileno()
    monkeypatch.setattr(readiness, "_ready", lambda _timeout: [wake_in])
    assert readiness.wait(LONG) is False
