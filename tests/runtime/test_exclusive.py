"""A section for one thread at a time stays free, whatever ends it."""

import threading
import time
from collections.abc import Callable

import pytest

from hbshim.runtime.exclusive import OCCUPIED, ExclusiveSection, TrySection
from tests.interrupts import interrupt_everywhere

LIMIT = 30.0


def section() -> ExclusiveSection:
    return ExclusiveSection(threading.RLock())


def test_it_returns_what_the_function_returns() -> None:
    assert section().run(lambda: 7) == 7


def test_the_error_of_a_function_is_raised_and_leaves_it_free() -> None:
    one = section()
    with pytest.raises(ZeroDivisionError):
        one.run(lambda: 1 / 0)
    assert one.run(lambda: "free") == "free"


@pytest.mark.parametrize("timeout", [0.0, 0.01])
def test_another_thread_finds_it_occupied(timeout: float) -> None:
    one, inside, leave = section(), threading.Event(), threading.Event()

    def work() -> None:
        inside.set()
        leave.wait(LIMIT)

    thread = threading.Thread(target=one.run, args=(work,))
    thread.start()
    assert inside.wait(LIMIT)
    assert one.run(lambda: "entered", timeout) is OCCUPIED
    leave.set()
    assert one.run(lambda: "entered", None) == "entered"
    thread.join(LIMIT)


def test_a_function_does_not_enter_twice_in_one_thread() -> None:
    """A finalizer or a signal handler may run anywhere within it."""
    one = section()
    assert one.run(lambda: one.run(lambda: "entered")) is OCCUPIED
    assert one.run(lambda: one.run(lambda: "entered", None)) is OCCUPIED
    assert one.run(lambda: "free") == "free"


@pytest.mark.parametrize("make", [section, TrySection])
def test_no_exception_at_any_instant_leaves_it_occupied(
    make: Callable[[], ExclusiveSection | TrySection],
) -> None:
    one, found = make(), []

    def enter_elsewhere() -> None:
        thread = threading.Thread(target=lambda: found.append(one.run(lambda: "free")))
        thread.start()
        thread.join(LIMIT)

    # At the least: the beginning of run(), how it enters, and the function.
    assert interrupt_everywhere(lambda: one.run(time.monotonic), enter_elsewhere) >= 3
    assert set(found) == {"free"}


def test_one_that_never_waits_does_not_enter_twice() -> None:
    one = TrySection()
    assert one.run(lambda: one.run(lambda: "entered")) is OCCUPIED
    with pytest.raises(ZeroDivisionError):
        one.run(lambda: 1 / 0)
    assert one.run(lambda: "free") == "free"
