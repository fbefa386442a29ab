"""Retries with growing pauses, full jitter and a deadline.

Full jitter spreads clients that lost the same broker at the same moment ("Exponential
Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

from hbshim.extras import needs

with needs(("tenacity",), "kombu", "pika", "zmq", "amqp1"):
    import tenacity

#: The longest pause, in seconds.
MAXIMUM = 30.0

#: Seconds; with less time left before a deadline, no further attempt is made.
TOO_LITTLE = 0.01


def pauses(
    delay: float,
    maximum: float = MAXIMUM,
    *,
    uniform: Callable[[float, float], float] = random.uniform,
) -> Iterator[float]:
    """Yield pauses in seconds, without end.

    Each is between 0 and a bound that doubles up to `maximum`.

    Parameters:
        delay: the first bound, in seconds.
        maximum: the largest bound, in seconds.
        uniform: returns a random number between two numbers.
    """
    return (uniform(0.0, bound) for bound in _bounds(delay, maximum))


def _bounds(delay: float, maximum: float) -> Iterator[float]:
    bound = min(delay, maximum)
    while True:
        yield bound
        bound = min(bound * 2, maximum)


class Backoff:
    """The pauses of a loop that never ends. They grow with each failure, up to a maximum.

    Parameters:
        delay: bound of the first pause, in seconds; it doubles with each failure in a row.
        maximum: the largest bound, in seconds.
        clock: returns the time, in seconds.
        uniform: returns a random number between two numbers.

    Attributes:
        failures: the number of failures in a row.
    """

    def __init__(
        self,
        delay: float,
        maximum: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._delay = delay
        self._maximum = maximum
        self._clock = clock
        self._uniform = uniform
        self._due = 0.0
        self._bound = delay
        self.failures = 0

    @property
    def grows(self) -> bool:
        """Whether the next pause may be longer than the last one."""
        return self._bound < self._maximum

    def fail(self) -> None:
        """Start a pause, of at least half its bound."""
        bound = min(self._bound, self._maximum)
        self._due = self._clock() + self._uniform(bound / 2, bound)
        self._bound = min(bound * 2, self._maximum)
        self.failures += 1

    def reset(self) -> None:
        """End the pause, and start again with the first bound."""
        self._due, self._bound, self.failures = 0.0, self._delay, 0

    def left(self) -> float:
        """Return the seconds until the pause is over; 0 if it is over."""
        return max(0.0, self._due - self._clock())


def retrying(
    attempts: int | None,
    delay: float,
    deadline: float | None,
    maximum: float = MAXIMUM,
    *,
    retry_on: Callable[[BaseException], bool],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] | None = None,
    uniform: Callable[[float, float], float] = random.uniform,
) -> tenacity.Retrying:
    """Iterate over attempts; the error of the last attempt is raised unchanged.

    For example::

        for attempt in retrying(3, 0.1, deadline, retry_on=worth_another_try):
            with attempt:
                return connect()

    Parameters:
        attempts: the most attempts, the first one included; None: as many as the deadline allows.
        delay: seconds; the first pause is between 0 and this, and the bound doubles with each.
        deadline: of `clock`. No pause goes beyond it, and no attempt starts after it; None:
            no deadline.
        maximum: the largest bound, in seconds.
        retry_on: returns whether another attempt may succeed after this error.
        clock: returns the time, in seconds.
        sleep: sleeps for a number of seconds; by default `time.sleep`, green if it is patched.
        uniform: returns a random number between two numbers.
    """
    bounds = _bounds(delay, maximum)

    def left() -> float:
        return float("inf") if deadline is None else deadline - clock()

    def stop(state: tenacity.RetryCallState) -> bool:
        return left() <= TOO_LITTLE or (attempts is not None and state.attempt_number >= attempts)

    def pause(_state: tenacity.RetryCallState) -> float:
        # A pause for all the time that is left would leave none for an attempt.
        return uniform(0.0, max(0.0, min(next(bounds), left() - TOO_LITTLE)))

    return tenacity.Retrying(
        wait=pause,
        stop=stop,
        retry=tenacity.retry_if_exception(retry_on),
        sleep=_sleep if sleep is None else sleep,
        reraise=True,
    )


def _sleep(seconds: float) -> None:
    time.sleep(seconds)
