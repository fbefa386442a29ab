"""Nothing outlasts its deadline: no C function that hangs, no read that is fed for ever."""

from __future__ import annotations

import os
import socket
import sys
import time
from typing import NoReturn

import pytest

from hbshim.doctor.deadline import Deadline, cutting_off, within
from hbshim.runtime.unpatched import get_native_id
from tests.waiting import wait_until


def test_what_hangs_is_left_behind() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    with listening, pytest.raises(TimeoutError):
        # Nobody ever connects; when the socket is shut down at last, the thread ends.
        within(Deadline(0.1), listening.accept)
    assert within(Deadline(60), lambda: 5) == 5


@pytest.mark.parametrize(
    "error", [OSError("why it failed"), UnicodeError("why it failed"), ValueError("why it failed")]
)
def test_what_fails_says_so(error: Exception) -> None:
    def fail() -> NoReturn:
        raise error

    with pytest.raises(type(error), match="why it failed"):
        within(Deadline(60), fail)


def test_a_wait_without_end_is_cut_off() -> None:
    near, far = socket.socketpair()
    with near, far:
        began = time.monotonic()
        with cutting_off(Deadline(0.2), lambda: near.shutdown(socket.SHUT_RDWR)):
            assert near.recv(1) == b""
        assert time.monotonic() - began >= 0.2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_cutting_goes_on_until_the_block_is_left() -> None:
    cuts, cutting = [], set()

    def cut() -> None:
        cutting.add(get_native_id())
        cuts.append(1)

    with cutting_off(Deadline(0), cut):
        wait_until(lambda: len(cuts) >= 3)
    # One cut may be under way as the block is left; then its thread ends.
    (thread,) = cutting
    wait_until(lambda: not os.path.exists(f"/proc/self/task/{thread}"))


def test_what_ends_in_time_is_not_cut() -> None:
    cuts = []
    with cutting_off(Deadline(60), lambda: cuts.append(1)):
        pass
    assert not cuts
