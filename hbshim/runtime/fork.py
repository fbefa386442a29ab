"""One value per process: a forked child starts afresh and disowns what it inherited.

``os.register_at_fork`` is not enough: uWSGI and mod_wsgi fork in C, where its
callbacks may not run. So process ids are compared as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class ProcessLocal(Generic[T]):
    """Makes its value lazily, once in each process.

    No call waits for another: two threads that ask at the same time for the first value
    may both make one, and both get the same. So neither a finalizer that asks while its
    thread makes the value, nor a child that was forked meanwhile, finds a lock taken.

    Parameters:
        make: builds the value; has no effect outside of it.
        disown: called in a forked child with the value of its parent.
    """

    def __init__(self, make: Callable[[], T], disown: Callable[[T], None]) -> None:
        self._make = make
        self._disown = disown
        self._values: dict[int, T] = {}
        os.register_at_fork(after_in_child=self._drop_inherited)

    def get(self) -> T:
        """The value of this process."""
        value = self._values.get(os.getpid())
        if value is None:
            self._drop_inherited()
            value = self._values.setdefault(os.getpid(), self._make())
        return value

    def peek(self) -> T | None:
        """The value of this process if it has been made already."""
        return self._values.get(os.getpid())

    def _drop_inherited(self) -> None:
        for pid in list(self._values):
            if pid != os.getpid() and (inherited := self._values.pop(pid, None)) is not None:
                self._disown(inherited)
