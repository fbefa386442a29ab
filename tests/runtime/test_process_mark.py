"""A mark of the process, that a child does not have."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from hbshim.runtime import fork as process_marks
from hbshim.runtime.fork import _PidMark, process_mark
from tests.concurrency import MODEL
from tests.native_fork import fork_in_c

MARKS = {"page": process_mark, "pid": process_marks._PidMark}


@pytest.mark.skipif(MODEL != "native", reason="forks in C")
@pytest.mark.parametrize("make", MARKS.values(), ids=MARKS)
@pytest.mark.parametrize("fork", [os.fork, fork_in_c], ids=["python", "c"])
def test_a_child_does_not_have_its_parents_mark(
    make: Callable[..., Any] | type[_PidMark], fork: Callable[..., Any] | Callable[[], int]
) -> None:
    mark = make()
    assert mark[0]
    child = fork()
    if not child:
        # It has one of its own.
        own = make()
        os._exit(42 if not mark[0] and own[0] and own is not mark else 43)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
    assert mark[0]


def test_a_process_has_one_mark() -> None:
    assert process_mark() is process_mark()


def test_a_system_that_cannot_wipe_a_page_compares_pids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_marks, "_MADV_WIPEONFORK", 9999)
    assert isinstance(process_marks._new_mark(), process_marks._PidMark)
