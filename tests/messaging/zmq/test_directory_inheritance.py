"""A forked child and the directory that it inherited: no lock of the parent's is waited for."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hbshim.messaging.zmq.directory.inheritance import Inheritable

LIMIT = 60.0

#: The parent forks while a thread, which the child does not have, holds the lock.
PROGRAM = """
import os, sys, threading, time
from hbshim.messaging.zmq.directory.address import read_address
from hbshim.messaging.zmq.directory.factory import open_directory
from hbshim.messaging.zmq.directory.settings import DirectorySettings

directory = open_directory(read_address(sys.argv[1]), DirectorySettings(socket_timeout=0.2))
uses = {
    "close": directory.close,
    "forget": lambda: directory.forget(b"key", "host"),
    "routes": lambda: directory.routes(b"key", time.monotonic() + 0.2),
    "watch": lambda: directory.watch(lambda: None)(),
}
held, released = threading.Event(), threading.Event()


def hold():
    with directory._lock.native:
        held.set()
        released.wait(60)


threading.Thread(target=hold, daemon=True).start()
held.wait(60)
children = {}
for name, use in uses.items():
    if (child := os.fork()) == 0:
        use()
        os._exit(0)
    children[name] = child
until = time.monotonic() + 20
for name, child in children.items():
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > until:
            for each in children.values():
                os.kill(each, 9)
            sys.exit(f"{name} hangs")
        time.sleep(0.01)
released.set()
directory.close()
"""


@pytest.mark.parametrize("url", ["file://{path}/folder", "redis://127.0.0.1:1/0"])
def test_no_child_waits_for_a_lock_that_was_held_at_the_fork(url: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, url.format(path=tmp_path)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


class Inherited(Inheritable):
    """Takes its time to replace what belongs to the parent."""

    def __init__(self) -> None:
        super().__init__()
        self.replaced = 0

    def drop_inherited(self) -> None:
        time.sleep(0.2)
        self.replaced += 1


def test_a_second_thread_waits_until_it_is_replaced_and_replaces_nothing_again() -> None:
    inherited = Inherited()
    inherited._mark = bytes(1)  # as a child finds it
    seen: list[int] = []

    def use() -> None:
        inherited.adopt()
        seen.append(inherited.replaced)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert seen == [1] * 8


def test_one_that_is_interrupted_is_replaced_by_the_next_call() -> None:
    inherited = Inherited()
    inherited._mark = bytes(1)
    replace = inherited.drop_inherited

    def interrupted() -> None:
        raise KeyboardInterrupt

    inherited.drop_inherited = interrupted
    with pytest.raises(KeyboardInterrupt):
        inherited.adopt()
    inherited.drop_inherited = replace
    inherited.adopt()
    assert inherited.replaced == 1
