"""One value per process."""

from __future__ import annotations

import os
import threading
from typing import Any

from hbshim.runtime.fork import PerProcess, ProcessLocal


def test_a_value_is_made_once_and_a_check_makes_none() -> None:
    made = []
    local = ProcessLocal(lambda: made.append(1) or object(), lambda _: None)
    assert local.peek() is None
    assert local.get() is local.get() is local.peek()
    assert made == [1]


def test_a_finalizer_that_asks_while_the_value_is_made_does_not_wait() -> None:
    values: list[Any] = []

    def make() -> object:
        if not values:
            values.append(None)
            values.append(local.get())
        return object()

    local = ProcessLocal(make, lambda _: None)
    assert local.get() is values[1] is local.peek()


def test_threads_that_ask_at_the_same_time_get_the_same() -> None:
    barrier = threading.Barrier(8, timeout=20)

    def make() -> object:
        barrier.wait()
        return object()

    local, values = ProcessLocal(make, lambda _: None), []
    threads = [threading.Thread(target=lambda: values.append(local.get())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, values))) == 1


def test_a_child_has_its_own_value_and_leaves_its_parents_alone() -> None:
    values = PerProcess(object)
    mine = values.get()
    child = os.fork()
    if child == 0:
        own = values.peek() is None and values.get() is not mine and values.peek() is not mine
        os._exit(0 if own else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert values.peek() is mine


def test_the_value_that_another_one_superseded_is_discarded() -> None:
    made: list[object] = []
    discarded: list[object] = []

    def make() -> object:
        value = object()
        made.append(value)
        if len(made) == 1:
            values.get()
        return value

    values = PerProcess(make, discarded.append)
    assert values.get() is made[1]
    assert discarded == made[:1]
