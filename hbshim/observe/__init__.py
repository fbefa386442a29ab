"""Ways to see what hbshim does in a process; each is loaded when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hbshim.observe.listening import listen, stop_listening

__all__ = ["listen", "stop_listening"]

_HOMES = {
    "listen": "hbshim.observe.listening",
    "stop_listening": "hbshim.observe.listening",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hbshim.observe' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
