"""Green threads that are killed while they use a pool; no connection or slot is lost.

Run by the scripts of ``tests/isolated``, one for each green library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from hbshim.errors import ConnectError, PoolTimeoutError
from hbshim.messaging.pool import Pool

#: Of a green library.
Sleep: TypeAlias = Callable[[float], object]


class Thing:
    def __init__(self) -> None:
        self.dead = False
        self.closed = False


class Scene:
    """A pool with one connection; `create` and `close` yield to other green threads."""

    def __init__(self, sleep: Sleep, **settings: Any) -> None:
        self.sleep = sleep
        self.slow = 0.0
        self.made: list[Thing] = []
        settings = {"max_size": 1, "max_overflow": 0, **settings}
        self.pool = Pool(self.create, self.close, lambda thing: thing.dead, **settings)

    def create(self, timeout: float) -> Thing:
        self.sleep(self.slow)
        self.made.append(Thing())
        return self.made[-1]

    def close(self, thing: Thing) -> None:
        thing.closed = True
        self.sleep(self.slow)

    def is_whole(self) -> None:
        """Check that the pool has its one connection, and no more than one."""
        self.slow = 0.0
        seen = self.pool.statistics()
        assert (seen.checked_out, seen.waiting) == (0, 0), seen
        assert seen.size == seen.idle, seen
        thing = self.pool.acquire(timeout=5)
        assert not thing.closed
        try:
            self.pool.acquire(timeout=0.01)
        except PoolTimeoutError:
            self.pool.release(thing)
        else:
            raise AssertionError("checked out more than the capacity")


def check(
    spawn: Callable[..., Any],
    kill: Callable[[Any], object],
    kill_on_arrival: Callable[[Any, Callable[[], object]], object],
    sleep: Sleep,
    timeout_after: Callable[[float], Any],
) -> None:
    """Check all cases with one green library.

    Parameters:
        spawn: starts a function as a green thread, and returns the thread.
        kill: ends a green thread from outside.
        kill_on_arrival: kills a green thread that a function has just woken up, before it
            runs.
        timeout_after: the library's Timeout class; its argument is in seconds.
    """

    def ask(scene: Scene, got: list[Thing]) -> None:
        thing = scene.pool.acquire(timeout=30)
        got.append(thing)
        scene.pool.release(thing)

    def in_line(scene: Scene) -> tuple[Thing, Any, list[Thing]]:
        """Return with the only connection checked out, and one waiter."""
        held = scene.pool.acquire()
        got: list[Thing] = []
        waiter = spawn(ask, scene, got)
        sleep(0)
        assert scene.pool.statistics().waiting == 1
        return held, waiter, got

    # In line, not served yet.
    scene = Scene(sleep)
    held, waiter, got = in_line(scene)
    kill(waiter)
    sleep(0)
    assert scene.pool.statistics().waiting == 0
    scene.pool.release(held)
    scene.is_whole()
    assert not got

    # Served, and ended before he ran again.
    for dead in (False, True):
        scene = Scene(sleep)
        held, waiter, got = in_line(scene)
        held.dead = dead
        kill_on_arrival(waiter, lambda scene=scene, held=held: scene.pool.release(held))  # type: ignore[misc]
        sleep(0.01)
        assert not got
        assert scene.made[0].closed is dead
        scene.is_whole()

    # The same, with another behind him in line.
    scene = Scene(sleep)
    held, waiter, got = in_line(scene)
    patient_got: list[Thing] = []
    spawn(ask, scene, patient_got)
    sleep(0)
    kill_on_arrival(waiter, lambda: scene.pool.release(held))
    sleep(0.01)
    assert patient_got == [held]
    assert not got
    scene.is_whole()

    # In the middle of making one, with another in line, who makes it then.
    scene = Scene(sleep)
    scene.slow = 30
    got = []
    maker = spawn(ask, scene, got)
    sleep(0)
    patient_got = []
    spawn(ask, scene, patient_got)
    sleep(0)
    scene.slow = 0.0
    kill(maker)
    sleep(0.01)
    assert patient_got == scene.made
    assert not got
    scene.is_whole()

    # In the middle of closing one that was dead.
    scene = Scene(sleep)
    scene.pool.release(scene.pool.acquire())
    scene.made[0].dead = True
    scene.slow = 30
    closer = spawn(ask, scene, got)
    sleep(0)
    assert scene.made[0].closed
    kill(closer)
    sleep(0)
    scene.is_whole()

    # By a Timeout of the library around everything.
    for stage in ("wait", "make"):
        scene = Scene(sleep)
        own = scene.pool.acquire() if stage == "wait" else None
        scene.slow = 30
        caught: BaseException | None = None
        timeout = timeout_after(0.01)
        try:
            scene.pool.acquire()
        except BaseException as error:
            caught = error
        finally:
            timeout.cancel()
        assert caught is timeout
        if own is not None:
            scene.pool.release(own)
        scene.is_whole()

    # In the middle of using it: it may be half-way through something.
    scene = Scene(sleep)
    scene.pool.release(scene.pool.acquire())

    def use() -> None:
        with scene.pool.lease():
            sleep(30)

    user = spawn(use)
    sleep(0)
    assert scene.pool.statistics().checked_out == 1
    kill(user)
    sleep(0)
    assert scene.made[0].closed
    scene.is_whole()

    # A connection that cannot be made, with waiters in line: each gets the error, none is left.
    scene = Scene(sleep)
    failures = []

    def refuse(timeout: float) -> None:
        sleep(0.001)
        raise ConnectError("no listener")

    ordinary, scene.pool._create = scene.pool._create, refuse

    def ask_in_vain() -> None:
        try:
            scene.pool.acquire(timeout=30)
        except ConnectError as error:
            failures.append(error)

    for _ in range(5):
        spawn(ask_in_vain)
    for _ in range(1000):
        if len(failures) == 5:
            break
        sleep(0.005)
    assert len(failures) == 5
    scene.pool._create = ordinary
    scene.is_whole()
