"""The link of a connection that an event loop of asyncio runs."""

from __future__ import annotations

import weakref
from typing import Any

from hbshim.heartbeat.link import Link


class LoopLink(Link):
    """Ends with the event loop, without which nothing can use the connection.

    The socket stays open for as long as the program refers to the connection. Kept alive, it would
    hold the messages that were delivered to it; without hbshim the broker closes it.
    """

    __slots__ = ("_loop",)

    _loop: weakref.ref[Any]

    def belongs_to(self, loop: Any) -> None:
        """End with `loop`, which is not kept alive."""
        self._loop = weakref.ref(loop)

    def check(self, now: float) -> float | None:
        reference = getattr(self, "_loop", None)
        if reference is not None and ((loop := reference()) is None or loop.is_closed()):
            self.guard.close()
        return super().check(now)
