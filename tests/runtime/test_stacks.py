"""The stacks of other threads are read without touching their frames."""

from __future__ import annotations

import ast
import subprocess
import sys
import threading
from pathlib import Path

import hbshim
from hbshim.runtime.stacks import escaped, stacks
from tests.concurrency import needs_os_threads
from tests.waiting import wait_until

pytestmark = needs_os_threads

#: A collection begins at each allocation in turn, and lets another thread return and end.
PROGRAM = """
import asyncio.events, faulthandler, gc, threading
from hbshim.runtime.loops import inspect_loops

faulthandler.dump_traceback_later(50, exit=True)

def deep(calls, go):
    if calls:
        return deep(calls - 1, go)
    go.wait()

def reuse(calls):
    a = b = c = d = e = f = g = [calls]
    return calls and reuse(calls - 1)

def other(ready, go, returned):
    ready.set()
    deep(40, go)
    reuse(60)
    returned.set()

for at in range(60):
    ready, go, returned = (threading.Event() for _ in range(3))
    thread = threading.Thread(target=other, args=(ready, go, returned))
    thread.start()
    ready.wait()
    left = at

    def collected(phase, _info):
        global left
        if phase == "start":
            left -= 1
            if left == -1:
                go.set()
                returned.wait()

    gc.collect()
    gc.callbacks.append(collected)
    gc.set_threshold(1)
    inspect_loops()
    gc.set_threshold(700)
    gc.callbacks.remove(collected)
    go.set()
    thread.join()
"""


def test_a_collection_meanwhile_neither_hangs_nor_crashes() -> None:
    """With `sys._current_frames()` this hangs at its list of threads in CPython 3.11."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_calls_are_those_of_each_thread_the_innermost_first() -> None:
    go = threading.Event()

    def wäit() -> None:
        go.wait()

    thread = threading.Thread(target=wäit)
    thread.start()
    try:
        ident = thread.ident or 0
        wait_until(lambda: stacks()[ident][0].function == "wait")
        names = [call.function for call in stacks()[ident]]
        assert names.index("wait") < names.index(r"w\xe4it") < names.index("run")
        (own,) = [call for call in stacks()[ident] if call.function == r"w\xe4it"]
        assert own.file == escaped(str(Path(__file__)))
        assert Path(__file__).read_text().splitlines()[own.line - 1].strip() == "go.wait()"
    finally:
        go.set()
        thread.join()
    assert ident not in stacks()


def test_it_is_known_whether_all_threads_are_there() -> None:
    go = threading.Event()
    threads = [threading.Thread(target=go.wait, daemon=True) for _ in range(100)]
    assert stacks().complete
    for each in threads:
        each.start()
    assert not stacks().complete
    go.set()
    for each in threads:
        each.join()
    assert stacks().complete


def test_no_module_follows_the_frames_of_other_threads() -> None:
    """Its own stack a thread may follow: it stands still meanwhile."""
    own = "stevedore.py"
    for path in Path(hbshim.__file__).parent.rglob("*.py"):
        names = {
            node.attr
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Attribute)
        }
        assert "_current_frames" not in names, path
        assert "f_back" not in names or path.name == own, path
