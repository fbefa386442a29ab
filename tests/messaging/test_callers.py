"""The callers of a driver, and its end."""

from __future__ import annotations

import pytest

from hbshim.errors import ConnectionLostError
from hbshim.messaging.callers import Callers


class Caller:
    def __init__(self) -> None:
        self.closes = 0

    def close(self) -> None:
        self.closes += 1


def test_a_process_has_one_caller_until_the_driver_is_closed() -> None:
    callers = Callers(Caller)
    caller = callers.get()
    assert callers.get() is caller
    callers.close()
    assert caller.closes == 1
    with pytest.raises(ConnectionLostError, match="the driver is closed"):
        callers.get()
    with pytest.raises(ConnectionLostError, match="the driver is closed"):
        callers.require_open()


def test_a_driver_that_is_closed_while_a_thread_makes_its_caller_keeps_none_open() -> None:
    made: list[Caller] = []

    def make() -> Caller:
        # Another thread closes the driver, and finds no caller.
        callers.close()
        made.append(Caller())
        return made[-1]

    callers = Callers(make)
    with pytest.raises(ConnectionLostError, match="the driver is closed"):
        callers.get()
    assert [caller.closes for caller in made] == [1]


def test_a_close_that_is_interrupted_is_completed_by_the_next_one() -> None:
    class Interrupted(Caller):
        def close(self) -> None:
            super().close()
            if self.closes == 1:
                raise KeyboardInterrupt

    callers = Callers(Interrupted)
    caller = callers.get()
    with pytest.raises(KeyboardInterrupt):
        callers.close()
    callers.close()
    assert caller.closes == 2
