"""Checks of arguments, so that a mistake is one error where it is made."""

from __future__ import annotations

import inspect

from hbshim.errors import OptionError


def require_count(name: str, value: object) -> None:
    """Check that an argument is a number of things.

    Raises:
        OptionError: it is not an integer, or below 1.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise OptionError(f"{name} must be at least 1, got {value!r}")


def require_function(name: str, value: object) -> None:
    """Check that a callback, if there is one, can be called without ``await``.

    Raises:
        OptionError: it is ``async def``, or cannot be called.
    """
    if value is None:
        return
    if not callable(value) or inspect.iscoroutinefunction(value):
        raise OptionError(
            f"{name} must be a function that is not async def, got {value!r}; it may start a task "
            "with asyncio.create_task()"
        )
