"""hbshim keeps AMQP connections alive whatever the concurrency of the process.

Importing it imports no messaging library and no green library; each name below
is loaded when it is first used.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hbshim.api import install, keep_alive, uninstall
    from hbshim.heartbeat.liveness import tick
    from hbshim.observe.snapshot import status, take_events
    from hbshim.options import Options
    from hbshim.runtime.detect import detect

__version__ = "0.1.0"

__all__ = [
    "Options",
    "__version__",
    "detect",
    "install",
    "keep_alive",
    "status",
    "take_events",
    "tick",
    "uninstall",
]

_HOMES = {
    "Options": "hbshim.options",
    "detect": "hbshim.runtime.detect",
    "install": "hbshim.api",
    "keep_alive": "hbshim.api",
    "status": "hbshim.observe.snapshot",
    "take_events": "hbshim.observe.snapshot",
    "tick": "hbshim.heartbeat.liveness",
    "uninstall": "hbshim.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hbshim' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
