"""Replaces methods of one object, and puts them back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_ABSENT = object()


def replace(thing: Any, methods: dict[str, Callable[..., Any]]) -> Callable[[], None]:
    """Let attributes of `thing` shadow the methods of its class.

    Parameters:
        thing: an object that other attributes can be set on.
        methods: what takes the place of the methods, by name.

    Returns:
        A function that restores what was there before; idempotent.
    """
    before = {name: vars(thing).get(name, _ABSENT) for name in methods}
    vars(thing).update(methods)

    def restore() -> None:
        while before:
            name, former = before.popitem()
            if former is _ABSENT:
                vars(thing).pop(name, None)
            else:
                setattr(thing, name, former)

    return restore
