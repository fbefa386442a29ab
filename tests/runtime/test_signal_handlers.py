"""A signal handler that calls hbshim never waits for the call that it interrupts."""

from __future__ import annotations

import ast
import itertools
import select
import threading
import time
from pathlib import Path

import hbshim
from hbshim.messaging.duplicates import Begun, DuplicateCache
from hbshim.messaging.flag import Flag
from hbshim.messaging.threads import Threads
from hbshim.messaging.zmq.directory.memory import MemoryDirectory
from hbshim.runtime.polling import restore_polling, strip_polling, stripped_polling
from tests.concurrency import needs_os_threads
from tests.interrupts import interrupt_everywhere, nest_everywhere
from tests.waiting import wait_until

LIMIT = 60.0

PACKAGE = Path(hbshim.__file__).parent

#: Locks that are no sections: one side acquires them in order to wait, another one releases them,
#: or they are only tried. By module and the name of what they are assigned to.
BELLS = {
    ("doctor/deadline.py", "leaving"),
    ("heartbeat/engine.py", "busy"),
    ("heartbeat/supervisor.py", "_wakeup"),
    ("heartbeat/workers.py", "_wakeup"),
    ("messaging/flag.py", "lock"),
    ("messaging/pool/state.py", "wakeup"),
    ("messaging/role.py", "wakeup"),
    ("messaging/stream.py", "news"),
    ("messaging/zmq/embedded.py", "_pause"),
    ("messaging/zmq/io.py", "_running"),
    ("observe/server.py", "_bell"),
}

#: The benchmarks are programs of their own.
PROGRAMS = {"bench"}


def _plain_locks() -> set[tuple[str, str]]:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        if name.partition("/")[0] in PROGRAMS:
            continue
        text = path.read_text()
        if "threading.Lock" not in text and "allocate_lock" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
                called = {
                    ast.unparse(each.func)
                    for each in ast.walk(node.value)
                    if isinstance(each, ast.Call)
                }
                if called & {"threading.Lock", "allocate_lock"}:
                    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                    found.add((name, ast.unparse(target).rpartition(".")[2]))
    return found


def test_every_section_is_reentrant() -> None:
    """A plain lock would make a thread wait for itself."""
    assert _plain_locks() == BELLS


@needs_os_threads
def test_install_inside_of_a_change_of_the_pollers() -> None:
    def change() -> None:
        with stripped_polling(force=True):
            pass

    def change_inside() -> None:
        strip_polling(force=True)
        restore_polling()

    assert nest_everywhere(change, change_inside, most=5) > 1000
    assert hasattr(select, "poll")
    assert hasattr(select, "epoll")
    assert strip_polling(force=True).removed
    assert restore_polling()
    assert hasattr(select, "poll")


@needs_os_threads
def test_a_flag_that_is_set_while_its_thread_begins_to_wait() -> None:
    unused, used = [Flag() for _ in range(100)], []
    in_time: list[bool] = []

    def wait() -> None:
        used.append(unused.pop())
        began = time.monotonic()
        # False only if the time was over before it was set.
        in_time.append(used[-1].wait(1) or time.monotonic() - began >= 1)

    assert nest_everywhere(wait, lambda: used[-1].set()) > 3
    assert all(in_time)
    assert not any(flag._waiting for flag in used)


@needs_os_threads
def test_an_interrupted_wait_leaves_nothing_in_a_flag() -> None:
    flag = Flag()

    def after() -> None:
        assert not flag._waiting

    assert interrupt_everywhere(lambda: flag.wait(0.001), after) > 2


def test_a_flag_ends_every_wait() -> None:
    flag, ended = Flag(), []

    def wait() -> None:
        ended.append(flag.wait(LIMIT))

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(flag._waiting) == len(threads))
    assert not flag.wait(0)
    assert not flag.wait(0.01)
    flag.set()
    flag.set()
    for thread in threads:
        thread.join(LIMIT)
    assert ended == [True] * 3
    assert flag.wait()
    flag.clear()
    assert not flag.is_set()


@needs_os_threads
def test_a_duplicate_cache_inside_of_itself() -> None:
    cache: DuplicateCache[str] = DuplicateCache()
    numbers = itertools.count()

    def use() -> None:
        key = ("queue", str(next(numbers)), 0)
        assert cache.begin(key, "first", check=True) is Begun.NEW
        assert cache.begin(key, "second", check=True) is Begun.RUNNING
        cache.suspect([key])
        assert cache.end(key) == ["second"]
        assert cache.forget(key) == []
        assert cache.begin_once(key, check=True)

    assert nest_everywhere(use, use) > 10


@needs_os_threads
def test_threads_that_are_given_work_inside_of_themselves() -> None:
    threads, done = Threads("test", 2), []
    assert (
        nest_everywhere(
            lambda: threads.submit(lambda: done.append(1)),
            lambda: threads.submit(lambda: done.append(2)),
        )
        > 2  # as many as if a thread waits for work
    )
    wait_until(lambda: done.count(2) == len(done) - done.count(1) and threads.count)
    assert nest_everywhere(lambda: threads.submit(lambda: done.append(1)), threads.close) > 2
    threads.join(time.monotonic() + LIMIT)
    assert threads.count == 0


@needs_os_threads
def test_a_directory_inside_of_itself() -> None:
    directory = MemoryDirectory()
    key = b"key"

    def use() -> None:
        directory.routes(key, time.monotonic() + LIMIT)
        directory.forget(key, "host")
        directory.watch(lambda: None)()

    assert nest_everywhere(use, use) > 5
