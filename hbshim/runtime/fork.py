"""State that belongs to one process: a mark that identifies the process, and one value for each.

``os.register_at_fork`` is not enough: uWSGI and mod_wsgi fork in C, where its callbacks may not
run. So process ids are compared as well. Where that costs too much, as for each message (up to one
per cent for ``os.getpid``), a page of memory is read that Linux wipes in the child of every fork.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")

#: What the error of a child process says that uses its parent's connection.
OPENED_BEFORE_FORK = (
    "this connection was opened before a fork and belongs to the parent process; "
    "open a new one in the child"
)

#: <linux/mman.h>, since 4.14; the `mmap` module of Python 3.11 does not name it.
_MADV_WIPEONFORK = 18


class ProcessMark(Protocol):
    """Item 0 is true in the process that made the mark, and false in its children."""

    def __getitem__(self, index: int, /) -> object: ...


class _PidMark:
    """The mark for systems that cannot wipe a page."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __getitem__(self, _index: int, /) -> bool:
        return os.getpid() == self._pid


def _new_mark() -> ProcessMark:
    if sys.platform != "linux":
        return _PidMark()
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(_MADV_WIPEONFORK)
    except (OSError, ValueError):
        return _PidMark()
    page[0] = 1
    # Indexing a view takes half the time of indexing the map.
    return memoryview(page)


_mark: ProcessMark | None = None


def process_mark() -> ProcessMark:
    """Return the mark of this process."""
    global _mark
    mark = _mark
    if mark is None or not mark[0]:
        _mark = mark = _new_mark()
    return mark


def _wipe() -> None:
    # If a kernel only pretends to wipe, as emulators may, Python's own forks are still noticed.
    global _mark
    if isinstance(_mark, memoryview):
        _mark[0] = 0
    _mark = None


os.register_at_fork(after_in_child=_wipe)


class PerProcess(Generic[T]):
    """Creates its value lazily, once in each process; a forked child leaves its parent's alone.

    No call waits for another one: two threads that request the first value at the same time may
    both create one, and both get the same. So neither a finalizer that requests the value while its
    thread creates it, nor a child that was forked meanwhile, finds a lock held.

    Parameters:
        make: creates the value.
        discard: called with a value that another thread's has superseded.
    """

    def __init__(self, make: Callable[[], T], discard: Callable[[T], None] | None = None) -> None:
        self._make = make
        self._discard = discard
        # By process id: a fork in C runs no callback that could empty it.
        self._values: dict[int, T] = {}

    def get(self) -> T:
        """Return the value of this process."""
        pid = os.getpid()
        value = self._values.get(pid)
        if value is None:
            made = self._make()
            value = self._values.setdefault(pid, made)
            if value is not made and self._discard is not None:
                self._discard(made)
        return value

    def peek(self) -> T | None:
        """Return the value of this process if it exists already."""
        return self._values.get(os.getpid())


class ProcessLocal(PerProcess[T]):
    """The same, for one that exists until the program ends: a child drops its parent's value.

    Parameters:
        make: creates the value, without side effects.
        drop: called in a forked child with the value of its parent.
    """

    def __init__(self, make: Callable[[], T], drop: Callable[[T], None]) -> None:
        super().__init__(make)
        self._drop = drop
        os.register_at_fork(after_in_child=self._drop_inherited)

    def get(self) -> T:
        if self.peek() is None:
            self._drop_inherited()
        return super().get()

    def _drop_inherited(self) -> None:
        for pid in list(self._values):
            if pid != os.getpid() and (inherited := self._values.pop(pid, None)) is not None:
                self._drop(inherited)
