"""Reads a `weakref.WeakSet` to which other threads add."""

from __future__ import annotations

import weakref
from typing import TypeVar

T = TypeVar("T")


def members(weak: weakref.WeakSet[T]) -> list[T]:
    """Return the members of a set; those that another thread adds meanwhile may be among them."""
    while True:
        try:
            return list(weak)
        except RuntimeError:
            continue  # it has changed during the iteration
