"""Green threads that are killed while they use a pool; no connection or slot is lost.

Run by the scripts of ``tests/isolated``, one for each green library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Green:
    """What one green library has.

    Attributes:
        spawn: starts a function as a green thread, and returns the thread.
        kill: ends a green thread from outside.
        kill_on_arrival: kills a green thread that a function has just woken up, before it
            runs.
        sleep: lets other green threads run, at least for some seconds.
        timeout_after: the library's Timeout class; its argument is in seconds.
    """

    spawn: Callable[..., Any]
    kill: Callable[[Any], object]
    kill_on_arrival: Callable[[Any, Callable[[], object]], object]
    sleep: Sleep
    timeout_after: Callable[[float], Any]

    def with_waiter(self) -> tuple[Scene, Thing, Any, list[Thing]]:
        """Return a scene with its only connection checked out, and one waiter for it."""
        scene = Scene(self.sleep)
        held = scene.pool.acquire()
        got: list[Thing] = []
        waiter = self.spawn(take, scene, got)
        self.sleep(0)
        assert scene.pool.statistics().waiting == 1
        return scene, held, waiter, got


def take(scene: Scene, got: list[Thing]) -> None:
    thing = scene.pool.acquire(timeout=30)
    got.append(thing)
    scene.pool.release(thing)


def check(green: Green) -> None:
    """Check all cases with one green library."""
    killed_while_it_waits(green)
    for dead in (False, True):
        killed_before_it_runs_again(green, dead=dead)
    killed_before_it_runs_again_with_another_behind_it(green)
    killed_while_it_creates(green)
    killed_while_it_closes(green)
    for stage in ("wait", "create"):
        ended_by_a_timeout(green, stage)
    killed_while_it_uses(green)
    each_waiter_gets_the_error(green)


def killed_while_it_waits(green: Green) -> None:
    scene, held, waiter, got = green.with_waiter()
    green.kill(waiter)
    green.sleep(0)
    assert scene.pool.statistics().waiting == 0
    scene.pool.release(held)
    scene.is_whole()
    assert not got


def killed_before_it_runs_again(green: Green, *, dead: bool) -> None:
    scene, held, waiter, got = green.with_waiter()
    held.dead = dead
    green.kill_on_arrival(waiter, lambda: scene.pool.release(held))
    green.sleep(0.01)
    assert not got
    assert scene.made[0].closed is dead
    scene.is_whole()


def killed_before_it_runs_again_with_another_behind_it(green: Green) -> None:
    scene, held, waiter, got = green.with_waiter()
    other_got: list[Thing] = []
    green.spawn(take, scene, other_got)
    green.sleep(0)
    green.kill_on_arrival(waiter, lambda: scene.pool.release(held))
    green.sleep(0.01)
    assert other_got == [held]
    assert not got
    scene.is_whole()


def killed_while_it_creates(green: Green) -> None:
    """Another waits, and creates the connection then."""
    scene = Scene(green.sleep)
    scene.slow = 30
    got: list[Thing] = []
    creator = green.spawn(take, scene, got)
    green.sleep(0)
    other_got: list[Thing] = []
    green.spawn(take, scene, other_got)
    green.sleep(0)
    scene.slow = 0.0
    green.kill(creator)
    green.sleep(0.01)
    assert other_got == scene.made
    assert not got
    scene.is_whole()


def killed_while_it_closes(green: Green) -> None:
    """The connection was dead."""
    scene = Scene(green.sleep)
    scene.pool.release(scene.pool.acquire())
    scene.made[0].dead = True
    scene.slow = 30
    closer = green.spawn(take, scene, [])
    green.sleep(0)
    assert scene.made[0].closed
    green.kill(closer)
    green.sleep(0)
    scene.is_whole()


def ended_by_a_timeout(green: Green, stage: str) -> None:
    """A Timeout of the library around everything."""
    scene = Scene(green.sleep)
    own = scene.pool.acquire() if stage == "wait" else None
    scene.slow = 30
    caught: BaseException | None = None
    timeout = green.timeout_after(0.01)
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


def killed_while_it_uses(green: Green) -> None:
    """The connection is closed: it may be half-way through something."""
    scene = Scene(green.sleep)
    scene.pool.release(scene.pool.acquire())

    def use() -> None:
        with scene.pool.lease():
            green.sleep(30)

    user = green.spawn(use)
    green.sleep(0)
    assert scene.pool.statistics().checked_out == 1
    green.kill(user)
    green.sleep(0)
    assert scene.made[0].closed
    scene.is_whole()


def each_waiter_gets_the_error(green: Green) -> None:
    """A connection cannot be created, and several wait for it."""
    scene = Scene(green.sleep)
    failures = []

    def refuse(timeout: float) -> None:
        green.sleep(0.001)
        raise ConnectError("no listener")

    ordinary, scene.pool._create = scene.pool._create, refuse

    def fail() -> None:
        try:
            scene.pool.acquire(timeout=30)
        except ConnectError as error:
            failures.append(error)

    for _ in range(5):
        green.spawn(fail)
    for _ in range(1000):
        if len(failures) == 5:
            break
        green.sleep(0.005)
    assert len(failures) == 5
    scene.pool._create = ordinary
    scene.is_whole()
