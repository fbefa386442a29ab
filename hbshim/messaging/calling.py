"""A call, as clients hand it to drivers and drivers pass it on."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TypeVar

from hbshim.errors import CallTimeoutError
from hbshim.messaging.base import OnReply, Payload, timeout_of
from hbshim.messaging.target import Target, described

Y = TypeVar("Y")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CallRequest:
    """The parameters of :meth:`hbshim.messaging.base.Driver.call`; its time begins with it.

    Attributes:
        timeout: seconds for everything, between 0 and
            :data:`hbshim.messaging.base.LONGEST_TIMEOUT`.
        began: time of ``time.monotonic()``.

    Raises:
        OptionError: the timeout is not a number of seconds.
    """

    target: Target
    payload: Payload
    timeout: float
    call_monitor_timeout: float | None = None
    on_reply: OnReply | None = None
    mandatory: bool = False
    attempts: int | None = None
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        object.__setattr__(self, "timeout", timeout_of(self.timeout))

    @property
    def deadline(self) -> float:
        """The end of its time, of ``time.monotonic()``."""
        return self.began + self.timeout

    @property
    def monitored_until(self) -> float:
        """The time at which it ends if no server reports by then; not after the deadline."""
        if self.call_monitor_timeout is None:
            return self.deadline
        return min(self.deadline, self.began + self.call_monitor_timeout)

    def naming_its_timeout(self, steps: Generator[Y, None, T]) -> Generator[Y, None, T]:
        """Return the operation; its timeout error names the target and the timeout.

        Raises:
            CallTimeoutError: the time is over.
        """
        try:
            return (yield from steps)
        except CallTimeoutError as error:
            raise CallTimeoutError(
                f"no reply from {described(self.target)} within {self.timeout:g} s ({error})"
            ) from None
