"""Calls side by side, one for each backend."""

from __future__ import annotations

import threading

import pytest

from hbshim.messaging.hybrid.together import together
from tests.messaging.conftest import LIMIT
from tests.waiting import wait_until


def test_one_that_does_not_return_delays_no_other() -> None:
    released, called = threading.Event(), threading.Event()
    try:
        together([called.set, lambda: released.wait(LIMIT), called.set], 0.1)
        assert called.is_set()
    finally:
        released.set()


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_all_are_called_whatever_one_raises(failing: int) -> None:
    called: list[int] = []

    def work(number: int) -> None:
        called.append(number)
        if number == failing:
            raise ValueError(number)

    with pytest.raises(ValueError, match=str(failing)):
        together([lambda number=number: work(number) for number in range(3)])  # type: ignore[misc]
    assert sorted(called) == [0, 1, 2]


def test_all_are_called_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    called: list[int] = []
    together([lambda number=number: called.append(number) for number in range(3)])  # type: ignore[misc]
    assert called == [0, 1, 2]


def test_no_error_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    late = threading.Event()

    def fail(text: str) -> None:
        raise ValueError(text)

    def fail_late() -> None:
        assert late.wait(LIMIT)
        fail("late")

    with pytest.raises(ValueError, match=r"first|second") as raised:
        together([lambda: fail("first"), lambda: fail("second"), fail_late], 0.0)
    late.set()

    def found() -> set[str]:
        logged = {str(each.exc_info[1]) for each in caplog.records if each.exc_info}
        return {str(raised.value), *logged}

    wait_until(lambda: found() == {"first", "second", "late"}, LIMIT)
