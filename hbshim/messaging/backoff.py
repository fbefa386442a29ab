"""Trying again: after pauses that grow, with full jitter, and never past a deadline.

Full jitter spreads clients that lost the same broker at the same moment ("Exponential
Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

from hbshim.extras import needs

with needs(("tenacity",), "kombu", "pika"):
    import tenacity

#: Seconds that no pause exceeds.
MAXIMUM = 30.0

#: Seconds; with less left before a deadline, another try is none.
TOO_LITTLE = 0.01


def pauses(
    delay: float,
    maximum: float = MAXIMUM,
    *,
    uniform: Callable[[float, float], float] = random.uniform,
) -> Iterator[float]:
    """Pauses for ever, in seconds: each between 0 and a bound that doubles up to `maximum`.

    Parameters:
        delay: seconds, the first bound.
        uniform: a random number between two.
    """
    return (uniform(0.0, bound) for bound in _bounds(delay, maximum))


def _bounds(delay: float, maximum: float) -> Iterator[float]:
    bound = min(delay, maximum)
    while True:
        yield bound
        bound = min(bound * 2, maximum)


class Backoff:
    """The pauses of one loop that never ends: they grow with each failure, up to a maximum.

    Parameters:
        delay: seconds, the bound of the first pause; it doubles with each failure in a row.
        maximum: seconds that the bound does not exceed.
        clock: the time, in seconds.
        uniform: a random number between two.

    Attributes:
        failures: in a row.
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
        """Begin a pause, of at least half its bound."""
        bound = min(self._bound, self._maximum)
        self._due = self._clock() + self._uniform(bound / 2, bound)
        self._bound = min(bound * 2, self._maximum)
        self.failures += 1

    def reset(self) -> None:
        """Have no pause now, and a short one next."""
        self._due, self._bound, self.failures = 0.0, self._delay, 0

    def left(self) -> float:
        """Seconds until the pause is over; 0 if it is."""
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
    """Attempts, to be used so; the last one's error is raised as it is::

        for attempt in retrying(3, 0.1, deadline, retry_on=worth_another_try):
            with attempt:
                return connect()

    Parameters:
        attempts: how many, with the first; None: until the deadline.
        delay: seconds; the first pause is between 0 and this, the bound of the next
            ones doubles.
        deadline: a time of `clock` that no pause reaches past, and after which nothing is
            tried again; None: there is none.
        maximum: seconds that the bound does not exceed.
        retry_on: whether another try may help after this error.
        clock: the time, in seconds.
        sleep: pauses for so many seconds; `time.sleep` as it is then, green or not.
        uniform: a random number between two.
    """
    bounds = _bounds(delay, maximum)

    def left() -> float:
        return float("inf") if deadline is None else deadline - clock()

    def stop(state: tenacity.RetryCallState) -> bool:
        return left() <= TOO_LITTLE or (attempts is not None and state.attempt_number >= attempts)

    def pause(_state: tenacity.RetryCallState) -> float:
        # A pause as long as all that is left would leave nothing to try in.
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
