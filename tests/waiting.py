"""Tests wait for conditions, with a deadline, never for a fixed time."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], timeout: float = 60.0) -> None:
    """Return as soon as `condition` is true; fail after `timeout` seconds.

    The limit ends what hangs. It is no statement about the time that something takes.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {condition}"
        time.sleep(0.005)


def wait_while_progressing(
    done: Callable[[], object], progress: Callable[[], object], stalled: float = 60.0
) -> None:
    """Return as soon as `done` is true; fail when `progress` is the same for `stalled` seconds.

    For work whose length depends on the machine: what hangs fails, what is slow does not.
    """
    seen, deadline = progress(), time.monotonic() + stalled
    while not done():
        now = progress()
        if now != seen:
            seen, deadline = now, time.monotonic() + stalled
        assert time.monotonic() < deadline, f"no progress for {stalled} s: {progress} is {now}"
        time.sleep(0.005)


def holds_at_some_scale(check: Callable[[float], None], *seconds: float) -> None:
    """Pass when `check` holds with one of `seconds`, tried in order; else fail as with the last.

    For statements about ratios of times, which a starved machine falsifies while the times are
    short. A fault of the product falsifies them at every scale.
    """
    for scale in seconds[:-1]:
        try:
            return check(scale)
        except Exception:
            continue
    return check(seconds[-1])
