"""A thread that waits until another one has read something for it."""

from __future__ import annotations

import contextlib
import threading


class Waiting:
    """One that waits; it reads for itself and the others where no other thread reads.

    Attributes:
        bell: acquired to wait. A bare lock as a binary semaphore: a quarter of an Event's cost.
    """

    __slots__ = ("bell",)

    def __init__(self) -> None:
        self.bell = threading.Lock()
        self.bell.acquire()

    @property
    def called(self) -> bool:
        """Whether something is there for it."""
        raise NotImplementedError

    def ring(self) -> None:
        """Wake it."""
        # Rung twice before it was heard.
        with contextlib.suppress(RuntimeError):
            self.bell.release()
