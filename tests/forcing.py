"""Heartbeats that are due at each check, and checks all the time."""

from __future__ import annotations

from hbshim.heartbeat import engine as engine_module
from hbshim.heartbeat import schedule, service
from hbshim.heartbeat.guard import Permit
from hbshim.heartbeat.link import Link


def check_often(every: float) -> None:
    """Let the engines of this process check as often as every `every` seconds."""
    schedule.SLOT = every
    vars(engine_module)["SLOT"] = every


def force_heartbeats(link: Link, every: float) -> None:
    """Have the engine find a heartbeat due at each check of `link`; see :func:`check_often`."""
    view = link.wire.kernel_view
    link.timeout = 2 * every
    link.wire.kernel_view = lambda: view()._replace(sent_ago=float("inf"), received_ago=0.0)
    for engine in service.current().engines():
        engine.watch(link)


def blind_guard(link: Link) -> None:
    """Make the guard of `link` useless, to see a test notice it."""
    held = link.guard.writers
    link.guard.writers = type(
        "NoGate",
        (),
        {
            "overlaps": 0,
            "occupied": False,
            "try_acquire": lambda _, held=held: Permit(frozenset(), held._acting),
            "inside": frozenset(),
            "release": lambda _: None,
            "revoke_permit": lambda _: None,
            "held": held,
        },
    )()
    # Send heartbeats into a full queue, too.
    link._half_written = lambda: False
    view = link.wire.kernel_view
    link.wire.kernel_view = lambda: view()._replace(queued=0)


class NoLock:
    """A lock that excludes no thread."""

    def __enter__(self) -> NoLock:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        pass

    def acquire(self, _blocking: bool = True, _timeout: float = -1) -> bool:
        return True

    def release(self) -> None:
        pass
