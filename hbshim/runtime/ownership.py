"""Tells, for the price of an index, whether this is still the process that it was.

``os.register_at_fork`` is not enough, because a host may fork in C without Python's
callbacks; and ``os.getpid`` is a system call, which costs a publisher up to one per cent
of a message. So a page of memory is used that Linux wipes in the child of every fork.
"""

from __future__ import annotations

import mmap
import os
import sys
from typing import Protocol

#: <linux/mman.h>, since 4.14; the `mmap` module of Python 3.11 does not name it.
_MADV_WIPEONFORK = 18


class ProcessMark(Protocol):
    """Item 0 is true in the process that made the mark, and false in its children."""

    def __getitem__(self, index: int, /) -> object: ...


class _PidMark:
    """For systems that cannot wipe a page."""

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
    # An index into a view takes half the time of one into the map.
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
    # Where a kernel only pretends to wipe, as emulators may, a fork of Python's own is seen.
    global _mark
    if isinstance(_mark, memoryview):
        _mark[0] = 0
    _mark = None


os.register_at_fork(after_in_child=_wipe)
