"""Replaces functions of client libraries, once, whichever threads do it at the same time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: What was replaced by what, by owner and name.
_agreed: dict[tuple[Any, str], tuple[Any, Any]] = {}


def replace_once(owner: Any, name: str, make: Callable[[Any], Any]) -> Any:
    """Replace a function, unless that was done; it is replaced when any of these calls returns.

    Without a lock, for which a thread might wait whose import another thread waits for. Threads
    that call it at the same time replace the function by the same object. If a call is interrupted,
    the next one completes it.

    Parameters:
        owner: a class or module; one that was reloaded has a new class.
        name: of the function.
        make: returns what replaces the function that it is given. Without side effects.

    Returns:
        The function that was replaced, by this call or an earlier one.
    """
    key, stock = (owner, name), getattr(owner, name)
    if key not in _agreed:
        # setdefault: all threads get what the first one has made.
        _agreed.setdefault(key, (stock, make(stock)))
    stock, replacement = _agreed[key]
    # Another tool may have wrapped the replacement since.
    if getattr(owner, name) is stock:
        setattr(owner, name, replacement)
    return stock
