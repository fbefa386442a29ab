"""What each thread of this process executes, read without touching its frames.

The frames of a thread that runs are not safe to follow from another one. `sys._current_frames()`
and `frame.f_back` allocate, so a collection can begin there and run a finalizer, which lets other
threads go on: CPython 3.11 then waits for ever for its list of threads, or reads the memory of a
frame that has returned. `faulthandler` walks all stacks in one C function that holds the GIL
throughout and allocates nothing.
"""

from __future__ import annotations

import faulthandler
import os
import re
from typing import IO, NamedTuple

_THREAD = re.compile(r"(?:Thread|Current thread) 0x([0-9a-f]+)\b.* \(most recent call first\):")
#: What stands for the threads beyond 100; for the calls beyond 100 it is indented.
_MORE_THREADS = "..."
_CALL = re.compile(r'  File "(.*)", line (\d+|\?\?\?) in (.*)')


class Call(NamedTuple):
    """One call that has not returned.

    Attributes:
        file: of the code; what is not ASCII is escaped as by :func:`escaped`.
        line: its number; 0 if it is unknown.
        function: the name, escaped like the file.
    """

    file: str
    line: int
    function: str


class Stacks(dict[int, list[Call]]):
    """The calls of each thread by its native identifier, the innermost first.

    Attributes:
        complete: every thread is in it.
    """

    complete = False


def escaped(path: str) -> str:
    """Return a path as it stands in :attr:`Call.file`."""
    return path.encode("ascii", "backslashreplace").decode()


def stacks() -> Stacks:
    """Return the calls of each thread.

    Of each of the 100 youngest threads up to 100 calls, which is what `faulthandler` writes;
    nothing if no temporary file can be opened.
    """
    try:
        file = _temporary_file()
    except OSError:
        return Stacks()
    with file:
        faulthandler.dump_traceback(file.fileno(), all_threads=True)
        file.seek(0)
        return _parse(file.read().decode("ascii", "replace"))


def _temporary_file() -> IO[bytes]:
    # In memory where that is possible: a disk may be full, or slow.
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("hbshim-stacks"), "w+b")
    from tempfile import TemporaryFile  # it takes longer to import than all of hbshim.runtime

    return TemporaryFile()


def _parse(text: str) -> Stacks:
    found = Stacks()
    found.complete = True
    calls: list[Call] = []
    for line in text.splitlines():
        if thread := _THREAD.fullmatch(line):
            calls = found[int(thread[1], 16)] = []
        elif call := _CALL.fullmatch(line):
            calls.append(Call(call[1], int(call[2]) if call[2].isdigit() else 0, call[3]))
        elif line == _MORE_THREADS:
            found.complete = False
    return found
