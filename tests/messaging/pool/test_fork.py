"""A forked child drops what its parent had, without a word on the wire, and has its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]

MODELS = {
    "native": "",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
    "gevent": "from gevent import monkey; monkey.patch_all()",
}

#: How the child comes to be; the second as hosts written in C do it, without Python's hooks.
WAYS = {
    "os.fork": "os.fork()",
    "fork in C": "__import__('tests.native_fork').native_fork.fork_in_c()",
}

PROGRAM = """
{patch}
import json, os, socket, sys
from hbshim.errors import PoolError, PoolTimeoutError
from hbshim.messaging.pool import Pool

class Line:
    "Says goodbye when it is closed, as AMQP does."
    def __init__(self):
        self.pid = os.getpid()
        self.near, self.far = socket.socketpair()
        self.far.setblocking(False)
    def close(self):
        self.near.send(b"bye")
        self.near.close()
    def heard(self):
        try:
            return self.far.recv(100).decode()
        except BlockingIOError:
            return ""

dropped = []

def drop_inherited(line):
    dropped.append(line)
    line.near.close()

pool = Pool(lambda timeout: Line(), Line.close, lambda line: False, max_size=2, max_overflow=0,
            drop_inherited={drop_inherited})
leased, idle = pool.acquire(), pool.acquire()
pool.release(idle)

{before}
child = {fork}
if child == 0:
    seen = {{}}
    mine = [pool.acquire(timeout=20), pool.acquire(timeout=20)]
    seen["own"] = all(line.pid == os.getpid() for line in mine)
    try:
        pool.acquire(timeout=0.01)
        seen["limit"] = False
    except PoolTimeoutError:
        seen["limit"] = True
    pool.release(leased)
    seen["kept"] = pool.statistics().checked_out
    for line in mine:
        pool.release(line)
    seen["dropped"] = sorted(line is leased or line is idle for line in dropped)
    seen["created"] = pool.statistics().created
    try:
        pool.release(leased)
    except PoolError:
        seen["twice"] = "refused"
    pool.close()
    with open(sys.argv[1], "w") as file:
        json.dump(seen, file)
    os._exit(0)

{after}
_, status = os.waitpid(child, 0)
pool.release(leased)
heard = [leased.heard(), idle.heard()]
again = sorted([pool.acquire() is line for line in (leased, idle)])
print(json.dumps({{"status": status, "heard": heard, "again": again,
                   "created": pool.statistics().created, "dropped": len(dropped)}}))
"""


def run(
    tmp_path: Path,
    model: str,
    way: str,
    *,
    drop_inherited: str = "drop_inherited",
    before: str = "",
    after: str = "",
) -> tuple[dict[str, int | list[bool | str]], dict[str, int | list[bool] | str]]:
    program = PROGRAM.format(
        patch=MODELS[model],
        fork=WAYS[way],
        drop_inherited=drop_inherited,
        before=before,
        after=after,
    )
    done = subprocess.run(
        # Python warns of forks in a process with threads; they are the point.
        [sys.executable, "-W", "ignore", "-c", program, str(tmp_path / "seen")],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), json.loads((tmp_path / "seen").read_text())


UNTOUCHED = {
    "status": 0,
    "heard": ["", ""],
    "again": [True, True],
    "created": 2,
    "dropped": 0,
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("way", WAYS)
def test_parent_and_child_have_nothing_in_common(tmp_path: Path, model: str, way: str) -> None:
    parent, child = run(tmp_path, model, way)
    assert parent == UNTOUCHED
    assert child == {
        "own": True,
        "limit": True,
        "kept": 2,
        "dropped": [True, True],
        "created": 2,
        "twice": "refused",
    }


def test_without_drop_inherited_the_child_only_drops_its_references(tmp_path: Path) -> None:
    parent, child = run(tmp_path, "native", "os.fork", drop_inherited="None")
    assert parent == UNTOUCHED
    assert child["dropped"] == []
    assert child["own"]


def test_a_lock_held_at_the_fork_does_not_block_the_child(tmp_path: Path) -> None:
    parent, child = run(
        tmp_path,
        "native",
        "os.fork",
        before="pool._state.section._lock.acquire()",
        after="pool._state.section._lock.release()",
    )
    assert parent == UNTOUCHED
    assert child["own"]


def test_the_pool_stays_closed_in_a_child(tmp_path: Path) -> None:
    program = """
import os
from hbshim.errors import PoolError
from hbshim.messaging.pool import Pool
pool = Pool(lambda timeout: 1, lambda _: None, lambda _: False)
pool.close()
child = os.fork()
try:
    pool.acquire()
    refused = False
except PoolError:
    refused = True
if child == 0:
    os._exit(0 if refused else 1)
print(refused, os.waitpid(child, 0)[1])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=CHECKOUT
    )
    assert done.stdout.split() == ["True", "0"], done.stderr
