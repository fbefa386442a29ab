"""The engine gets in only when nobody is, and clients never wait for each other."""

import os
import threading

import pytest

from hbshim.heartbeat.guard import IDLE_BEFORE_LOOK, Guard
from tests.native_fork import fork_in_c
from tests.worlds import needs_os_threads


def nothing():
    return None


def never(_error):
    return False


def writer(guard, function, before=nothing, tears=never):
    wrapped = guard.around_send(lambda _: function(), before, tears)
    return lambda: wrapped(b"frame")


def test_the_engine_stays_out_while_a_write_is_under_way():
    guard = Guard()
    inside = []
    writer(guard, lambda: inside.append(guard.writers.engine_enters()))()
    assert inside == [False]
    assert guard.writers.engine_enters()
    guard.writers.engine_leaves()


def test_a_second_writer_does_not_wait_for_the_first_and_is_counted():
    guard = Guard()
    order = []
    second = writer(guard, lambda: order.append(("second", guard.writers.engine_enters())))
    first = writer(
        guard, lambda: (second(), order.append(("first", guard.writers.engine_enters())))
    )
    first()
    assert order == [("second", False), ("first", False)]
    assert guard.writers.overlaps == 1
    assert guard.writers.engine_enters()


@needs_os_threads
def test_the_gate_stays_taken_while_the_second_writer_outlives_the_first():
    guard = Guard()
    second_is_in, let_second_go = threading.Event(), threading.Event()

    def slow():
        second_is_in.set()
        assert let_second_go.wait(5)

    thread = threading.Thread(target=writer(guard, slow))
    writer(guard, lambda: (thread.start(), second_is_in.wait(5)))()
    assert guard.writers.occupied
    assert not guard.writers.engine_enters()
    let_second_go.set()
    thread.join(5)
    assert not guard.writers.occupied
    assert guard.writers.engine_enters()


@needs_os_threads
def test_a_writer_waits_for_the_engine_and_only_for_the_engine():
    guard = Guard()
    done = threading.Event()
    assert guard.writers.engine_enters()
    thread = threading.Thread(target=writer(guard, done.set))
    thread.start()
    assert not done.is_set()
    guard.writers.engine_leaves()
    assert done.wait(5)
    thread.join(5)
    assert guard.writers.overlaps == 0


def test_an_error_of_the_write_leaves_the_gate_open():
    guard = Guard()

    def fail():
        raise ValueError("marshalling")

    with pytest.raises(ValueError, match="marshalling"):
        writer(guard, fail)()
    assert not guard.torn
    assert guard.writers.engine_enters()


def test_a_broken_off_write_is_remembered():
    guard = Guard()

    def fail():
        raise TimeoutError

    with pytest.raises(TimeoutError):
        writer(guard, fail, tears=lambda error: isinstance(error, OSError))()
    assert guard.torn


def test_only_a_write_after_a_silence_looks_first():
    guard, looks = Guard(), []
    write = writer(guard, nothing, before=lambda: looks.append(1))
    write()
    assert looks == []
    guard.last_write -= 2 * IDLE_BEFORE_LOOK
    write()
    write()
    assert looks == [1]


def test_a_refused_write_is_not_a_torn_one():
    guard = Guard()

    def refuse():
        raise ConnectionError

    guard.last_write -= 2 * IDLE_BEFORE_LOOK
    with pytest.raises(ConnectionError):
        writer(guard, nothing, before=refuse, tears=lambda _: True)()
    assert not guard.torn
    assert guard.writers.engine_enters()


def test_a_flush_and_a_read_hold_their_gates():
    guard, seen = Guard(), []
    guard.around_flush(lambda: seen.append(guard.writers.occupied), nothing)()
    guard.around_read(lambda: seen.append(guard.readers.occupied), nothing)()
    assert seen == [True, True]
    assert not guard.writers.occupied
    assert not guard.readers.occupied


@needs_os_threads
def test_a_child_forked_in_c_is_stopped_before_it_writes_or_reads():
    """However fresh its parent's last write is: nothing runs in the child to tell it."""
    guard, passed = Guard(), []

    def refuse():
        raise ConnectionError

    write = writer(guard, lambda: passed.append("write"), before=refuse)
    read = guard.around_read(lambda: passed.append("read"), refuse)
    write()
    read()
    assert passed == ["write", "read"]
    child = fork_in_c()
    if child == 0:
        refused = 0
        for go in (write, read):
            try:
                go()
            except ConnectionError:
                refused += 1
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2


def test_a_signal_handler_may_write_while_its_own_thread_is_the_engine():
    guard, written = Guard(), []
    assert guard.writers.engine_enters()
    writer(guard, lambda: written.append(1))()
    guard.writers.engine_leaves()
    assert written == [1]


@needs_os_threads
def test_hammered_from_many_threads_the_engine_never_meets_a_writer():
    guard = Guard()
    wire, met, stop = [], [], threading.Event()
    one_at_a_time = threading.Lock()

    def frame():
        with one_at_a_time:
            wire.append("begin")
            wire.append("end")

    def publish():
        write = writer(guard, frame)
        while not stop.is_set():
            write()

    publishers = [threading.Thread(target=publish) for _ in range(3)]
    for thread in publishers:
        thread.start()
    beats = 0
    while beats < 30:
        if guard.writers.engine_enters():
            met.append(bool(wire) and wire[-1] == "begin")
            beats += 1
            guard.writers.engine_leaves()
    stop.set()
    for thread in publishers:
        thread.join(10)
    assert met == [False] * 30
    assert wire.count("begin") == wire.count("end") > 0
