"""What a process holds: memory, descriptors, threads, objects."""

from __future__ import annotations

import enum
import gc
import os
from collections import Counter
from dataclasses import dataclass

from hbshim.metrics import Event
from hbshim.runtime.loaded import instances_of, module_of, subclasses_of

_PAGE = os.sysconf("SC_PAGE_SIZE")
#: Whose objects are counted one by one; the interpreter's own come and go.
_WATCHED = ("hbshim", "amqp", "kombu", "pika", "socket", "eventlet.greenio", "gevent._socket")


def resident() -> int:
    """Resident memory in bytes."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * _PAGE


def descriptors() -> int:
    """Open file descriptors, but for the one that looks."""
    return len(os.listdir("/proc/self/fd")) - 1


def threads() -> int:
    """Threads that the operating system knows."""
    return len(os.listdir("/proc/self/task"))


def objects() -> dict[str, int]:
    """Live instances of hbshim's and the libraries' classes, by class, garbage collected first."""
    gc.collect()
    found: Counter[str] = Counter()
    watched = [
        kind
        for kind in subclasses_of([object])
        if module_of(kind).startswith(_WATCHED)
        # A combination of flags is made once, when it is first used.
        # Events are kept for the log, a bounded number of them.
        and not issubclass(kind, (enum.Enum, Event))
    ]
    for each in instances_of(watched):
        kind = type(each)
        found[f"{module_of(kind)}.{kind.__qualname__}"] += 1
    return dict(found)


@dataclass(frozen=True)
class Census:
    """Everything, at one moment at rest."""

    resident: int
    descriptors: int
    threads: int
    objects: dict[str, int]

    @classmethod
    def take(cls) -> Census:
        """Count; costs some hundredths of a second."""
        counted = objects()
        return cls(resident(), descriptors(), threads(), counted)

    def left_over(self, before: Census) -> dict[str, int]:
        """What there is more of than before; memory is not counted here."""
        more = {
            "descriptors": self.descriptors - before.descriptors,
            "threads": self.threads - before.threads,
        }
        more |= {name: count - before.objects.get(name, 0) for name, count in self.objects.items()}
        return {name: count for name, count in more.items() if count > 0}
