"""One value per process: a forked child starts afresh and disowns what it inherited.

``os.register_at_fork`` is not enough: uWSGI and mod_wsgi fork in C, where its
callbacks may not run. So process ids are compared as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar

from hbshim.runtime.unpatched import allocate_lock

T = TypeVar("T")


class ProcessLocal(Generic[T]):
    """Makes its value lazily, once in each process.

    Parameters:
        make: builds the value.
        disown: called in a forked child with the value of its parent.
    """

    def __init__(self, make: Callable[[], T], disown: Callable[[T], None]) -> None:
        self._make = make
        self._disown = disown
        self._value: T | None = None
        self._pid = os.getpid()
        self._lock = allocate_lock()
        os.register_at_fork(after_in_child=self._after_fork)

    def get(self) -> T:
        """The value of this process."""
        value = self._value
        if value is None or self._pid != os.getpid():
            return self._renew()
        return value

    def peek(self) -> T | None:
        """The value of this process if it has been made already."""
        return self._value if self._pid == os.getpid() else None

    def _renew(self) -> T:
        if self._pid != os.getpid():
            self._after_fork()
        with self._lock:
            if self._value is None:
                self._value = self._make()
            return self._value

    def _after_fork(self) -> None:
        inherited, self._value = self._value, None
        self._pid = os.getpid()
        # Another thread of the parent may have held it at the fork.
        self._lock = allocate_lock()
        if inherited is not None:
            self._disown(inherited)
