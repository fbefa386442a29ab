"""Operations as steps: generators that yield a :class:`Wait` wherever they would wait for a reply.

A thread runs an operation with :func:`run`, and waits itself. :mod:`hbshim.messaging.aio` runs the
same operation without a thread while it waits: see :mod:`hbshim.messaging.reading`. Closing the
generator withdraws the operation: its ``finally`` blocks drop what waits for its reply.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from typing import NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

from hbshim.errors import CallTimeoutError
from hbshim.messaging.base import Driver, OnReply, Payload, Reply
from hbshim.messaging.calling import CallRequest
from hbshim.messaging.role import ReaderRole, Waiter
from hbshim.messaging.target import Target

T = TypeVar("T")


class Wait(NamedTuple):
    """What an operation waits for.

    Attributes:
        role: of the threads that read; None: nothing is read for it, so it is a pause.
        waiter: is notified.
        until: of ``time.monotonic()``.
        otherwise: what has not happened by then, for the :class:`CallTimeoutError` that is thrown
            into the operation.
    """

    role: ReaderRole | None
    waiter: Waiter
    until: float
    otherwise: str


#: An operation; it may take time between two waits, to send or to connect.
Steps: TypeAlias = Generator[Wait, None, T]


@runtime_checkable
class CallsInSteps(Protocol):
    """A driver whose calls wait without a thread."""

    def call_steps(self, request: CallRequest) -> Steps[Reply]:
        """See :meth:`hbshim.messaging.base.Driver.call`."""
        ...


@runtime_checkable
class CastsInSteps(Protocol):
    """A driver whose casts wait without a thread."""

    def cast_steps(
        self, target: Target, payload: Payload, timeout: float, *, mandatory: bool = False
    ) -> Steps[None]:
        """See :meth:`hbshim.messaging.base.Driver.cast`; the time runs from now."""
        ...


@runtime_checkable
class RepliesInSteps(Protocol):
    """A stored request whose replies are waited for without a thread."""

    def receive_steps(self, timeout: float) -> Steps[Reply]:
        """See :meth:`hbshim.messaging.storing.PendingReply.receive`, for one caller at a time."""
        ...


def at_once(work: Callable[[], T]) -> Steps[T]:
    """Return an operation that waits in its thread."""
    yield from ()
    return work()


def steps_of(driver: Driver, request: CallRequest) -> Steps[Reply]:
    """Return a call as an operation; of a driver that has none, one that waits in its thread."""
    if isinstance(driver, CallsInSteps):
        return driver.call_steps(request)
    return at_once(
        lambda: driver.call(
            request.target,
            request.payload,
            max(0.0, request.deadline - time.monotonic()),
            call_monitor_timeout=request.call_monitor_timeout,
            on_reply=request.on_reply,
            mandatory=request.mandatory,
            attempts=request.attempts,
        )
    )


def run(steps: Steps[T]) -> T:
    """Run an operation in this thread, which waits for it; return its result."""
    try:
        wait = next(steps)
        while True:
            try:
                _wait(wait)
            except BaseException as error:
                wait = steps.throw(error)
            else:
                wait = next(steps)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        # An interrupt may have come between two steps.
        steps.close()


class WaitsInThread:
    """A base for drivers that call in steps: gives them calls that wait in the caller's thread."""

    def call(
        self: CallsInSteps,
        target: Target,
        payload: Payload,
        timeout: float,
        *,
        call_monitor_timeout: float | None = None,
        on_reply: OnReply | None = None,
        mandatory: bool = False,
        attempts: int | None = None,
    ) -> Reply:
        """See :meth:`hbshim.messaging.base.Driver.call`."""
        request = CallRequest(
            target,
            payload,
            timeout,
            call_monitor_timeout,
            on_reply,
            mandatory,
            attempts,
        )
        return run(self.call_steps(request))


def _wait(wait: Wait) -> None:
    if wait.role is not None:
        wait.role.wait_once(wait.waiter, wait.until, wait.otherwise)
        return
    time.sleep(max(0.0, wait.until - time.monotonic()))
    raise CallTimeoutError(wait.otherwise)


class _Pause(Waiter):
    """Is never notified."""

    __slots__ = ()

    @property
    def ready(self) -> bool:
        return False


def pause(seconds: float) -> Steps[None]:
    """Do nothing for a time."""
    with contextlib.suppress(CallTimeoutError):
        yield Wait(None, _Pause(), time.monotonic() + seconds, "")
