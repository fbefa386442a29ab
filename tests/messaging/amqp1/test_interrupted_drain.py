"""A thread that reads for others, and is interrupted, loses nothing of theirs."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from hbshim.messaging.amqp1.connection import Connection
from tests.concurrency import MODEL
from tests.interrupts import interrupt_everywhere


class Stream:
    """Has read something already."""

    failed = False

    def receive_into(self, _arrived: object, _timeout: float) -> None:
        """Nothing more comes."""

    def fail(self, _error: BaseException) -> None:
        self.failed = True


@pytest.mark.skipif(MODEL != "native", reason="a signal handler of Python's own")
def test_what_an_interrupt_takes_from_another_thread_comes_over_another_connection() -> None:
    """Else the thread whose reply it was would wait until its timeout."""
    connection: Any = Connection.__new__(Connection)
    connection._arrived, connection._to_accept, connection._stream = deque(), deque(), Stream()
    got: list[int] = []

    def deliver() -> None:
        got.clear()
        connection._stream.failed = False
        connection._arrived.append(lambda: got.append(1))

    def after() -> None:
        if not connection._stream.failed:
            connection.drain(0)
            assert got == [1]
        connection._arrived.clear()
        deliver()

    deliver()
    assert interrupt_everywhere(lambda: connection.drain(0), after)
