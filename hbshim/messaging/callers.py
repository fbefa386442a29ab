"""The callers of a driver: one in each process, until the driver is closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from hbshim.messaging.base import driver_closed
from hbshim.runtime.fork import PerProcess


class Closable(Protocol):
    """What makes the calls of one process."""

    def close(self) -> None: ...


C = TypeVar("C", bound=Closable)


class Callers(PerProcess[C]):
    """Makes the caller of a process when it is first needed.

    Parameters:
        make: makes a caller.
    """

    def __init__(self, make: Callable[[], C]) -> None:
        super().__init__(make, discard=lambda made: made.close())
        self.closed = False

    def require_open(self) -> None:
        """Check that the driver is open.

        Raises:
            ConnectionLostError: it is closed.
        """
        if self.closed:
            raise driver_closed()

    def get(self) -> C:
        """Return the caller of this process.

        Raises:
            ConnectionLostError: the driver is closed.
        """
        self.require_open()
        caller = super().get()
        if self.closed:
            # By another thread, which may have found no caller to close.
            caller.close()
            raise driver_closed()
        return caller

    def close(self) -> None:
        """Close the caller of this process; idempotent.

        The caller stays, so that the next call completes one that was interrupted.
        """
        self.closed = True
        if (caller := self.peek()) is not None:
            caller.close()
