"""Ways to see what hbshim does in a process; each is loaded when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hbshim.observe.listening import listen, stop_listening
    from hbshim.observe.logs import keep_logging, log_events

__all__ = ["keep_logging", "listen", "log_events", "stop_listening"]

_HOMES = {
    "keep_logging": "hbshim.observe.logs",
    "listen": "hbshim.observe.listening",
    "log_events": "hbshim.observe.logs",
    "stop_listening": "hbshim.observe.listening",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hbshim.observe' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
