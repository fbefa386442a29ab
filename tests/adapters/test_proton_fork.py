"""A forked child and its parent's connection of qpid-proton."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import proton
import pytest
from proton.utils import BlockingConnection

import hbshim
from hbshim.heartbeat.state import State
from tests.adapters.amqp1_peer import EMPTY_FRAME, Peer, is_kind, serving, split
from tests.concurrency import MODEL
from tests.native_fork import fork_in_c
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(MODEL != "native", reason="forks beside a native thread"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]

ENDED_IN_TIME = 20


@pytest.fixture
def peer() -> Iterator[Peer]:
    with serving(Peer(500)) as peer:
        yield peer


@pytest.fixture
def connection(peer: Peer) -> Iterator[Any]:
    connection = BlockingConnection(peer.url, timeout=5, sasl_enabled=False)
    hbshim.keep_alive(connection)
    yield connection
    connection.timeout = 0.1
    with contextlib.suppress(Exception):
        connection.close()


def answer_of_child(fork: Callable[[], int], action: Callable[[], object]) -> str:
    """The report of a forked child."""
    reads, writes = os.pipe()
    pid = fork()
    if not pid:
        signal.alarm(ENDED_IN_TIME)
        try:
            answer = repr(action())
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writes, answer.encode())
        os._exit(0)
    os.close(writes)
    with open(reads, encoding="utf-8") as answers:
        answer = answers.read()
    assert os.waitpid(pid, 0)[1] == 0, answer
    return answer


FORKS = pytest.mark.parametrize("fork", [os.fork, fork_in_c])


@FORKS
def test_a_child_that_uses_the_connection_is_told_and_the_parent_goes_on(
    connection: Any, peer: Peer, fork: Callable[[], int]
) -> None:
    link = connection.conn.transport._selectable.hbshim_link

    def use() -> str:
        refused = []
        for _ in range(2):
            try:
                connection.create_sender("queue")
            except proton.ConnectionException as error:
                refused.append(str(error))
        opened_here = ["opened before a fork" in error for error in refused]
        return f"{opened_here} {link.state.value} {link.wire.closed}"

    assert answer_of_child(fork, use) == repr(f"{[True, True]} orphaned True")
    sent = link.heartbeats_sent
    wait_until(lambda: link.heartbeats_sent >= sent + 3)
    assert link.state is State.ALIVE
    assert peer.closed_after is None
    # The child has sent nothing.
    assert set(split(peer.received)[0][2:]) == {EMPTY_FRAME}


@FORKS
def test_a_child_that_closes_it_closes_its_own_copy_only(
    connection: Any, peer: Peer, fork: Callable[[], int]
) -> None:
    def close() -> float:
        began = time.monotonic()
        with contextlib.suppress(proton.ConnectionException):
            connection.close()
        return time.monotonic() - began

    # Not until proton's timeout.
    assert float(answer_of_child(fork, close)) < 4
    link = connection.conn.transport._selectable.hbshim_link
    sent = link.heartbeats_sent
    wait_until(lambda: link.heartbeats_sent >= sent + 3)
    assert not any(is_kind(frame, 0x18) for frame in split(peer.received)[0])


@FORKS
def test_a_child_that_does_not_use_it_is_not_disturbed(
    connection: Any, peer: Peer, fork: Callable[[], int]
) -> None:
    def open_its_own() -> bool:
        with serving(Peer(500)) as other:
            own = BlockingConnection(other.url, timeout=5, sasl_enabled=False)
            hbshim.keep_alive(own)
            wait_until(lambda: other.heartbeats >= 3)
            own.close()
        return True

    assert answer_of_child(fork, open_its_own) == "True"
    assert peer.closed_after is None
