"""Looking at what a process has loaded changes nothing in it."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import types
from collections.abc import Callable
from typing import Any

import pytest

from hbshim import _import_hooks
from hbshim.runtime import captured
from hbshim.runtime.loaded import instances_of
from tests.interrupts import collect_everywhere
from tests.waiting import wait_until


class Connection:
    """As a client library has it."""


class Derived(Connection):
    """As an application derives its own."""


class Forged:
    """A proxy: its class claims to be a connection."""

    @property  # type: ignore[misc]
    def __class__(self) -> type[Connection]:  # type: ignore[override]
        return Connection


def all_objects() -> list[Any]:
    return [each for each in gc.get_objects() if isinstance(each, Connection)]


def test_instances_of_derived_classes_are_found_and_proxies_are_not() -> None:
    mine = [Connection(), Derived(), Forged()]
    assert isinstance(mine[-1], Connection)
    found = instances_of([Connection])
    assert {id(each) for each in found} == {id(each) for each in mine[:2]}


def tuples_that_fail(look: Callable[..., Any] | Callable[[], list[Any]]) -> list[SystemError]:
    """Call `look` while threads build tuples; return what those raised."""
    errors, built, end = [], [], threading.Event()

    def build() -> None:
        while not end.is_set():
            try:
                built.append(len(tuple(time.sleep(0) or each for each in range(30))))
            except SystemError as error:
                errors.append(error)

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(built) > 4)
        deadline = time.monotonic() + 10
        for _ in range(50):
            look()
            if errors or time.monotonic() > deadline:
                break
    finally:
        end.set()
        for thread in threads:
            thread.join()
    return errors


@pytest.mark.parametrize(
    ("look", "harmless"), [(lambda: instances_of([Connection]), True), (all_objects, False)]
)
def test_a_tuple_that_another_thread_builds_is_let_alone(
    look: Callable[..., Any] | Callable[[], list[Any]], harmless: bool
) -> None:
    """The control is the collector's list of all objects."""
    errors = tuples_that_fail(look)
    assert (not errors) == harmless


@pytest.mark.parametrize("of", ["modules", "a module"])
def test_a_module_is_imported_while_the_loaded_ones_are_searched(
    monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    names = itertools.count()
    searched = types.ModuleType("hbshim_test_searched")
    vars(searched).update({f"name_{number}": number for number in range(30)})
    modules = {str(number): searched for number in range(30)}
    monkeypatch.setattr(captured, "sys", types.SimpleNamespace(modules=modules))
    changed: dict[str, Any] = vars(searched) if of == "a module" else modules

    def change() -> None:
        changed[f"another_{next(names)}"] = searched

    assert collect_everywhere(lambda: captured.scan({"select": ("epoll",)}), change)
    assert next(names) > 10


def test_a_thread_begins_to_import_while_another_one_is_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = {(0, number): _import_hooks._Own() for number in range(30)}
    monkeypatch.setattr(_import_hooks, "_own", own)
    numbers = itertools.count(100)

    def begin() -> None:
        own[0, next(numbers)] = _import_hooks._Own()

    assert collect_everywhere(lambda: _import_hooks.hand_over(lambda: None), begin)
