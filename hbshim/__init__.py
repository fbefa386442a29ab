"""hbshim keeps AMQP connections alive in any concurrency model.

Importing it imports no messaging library and no green library; each name below is loaded at its
first use. Public are these names and, with the names that each lists in ``__all__``, the modules
in ``PUBLIC_MODULES``; any other module may change without notice.
"""

from __future__ import annotations

from hbshim._lazy import lazy_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hbshim.api import install, keep_alive, uninstall
    from hbshim.errors import HbshimError
    from hbshim.heartbeat.liveness import mark_alive
    from hbshim.metrics import Event
    from hbshim.observe.snapshot import status, take_events
    from hbshim.options import Options
    from hbshim.runtime.detect import detect

__version__ = "0.1.0"

__all__ = [
    "Event",
    "HbshimError",
    "Options",
    "__version__",
    "detect",
    "install",
    "keep_alive",
    "mark_alive",
    "status",
    "take_events",
    "uninstall",
]

PUBLIC_MODULES = (
    "doctor",
    "errors",
    "kombu",
    "messaging",
    "messaging.aio",
    "observe",
    "otel",
    "pika",
    "prometheus",
    "runtime.polling",
)

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Event": "hbshim.metrics",
        "HbshimError": "hbshim.errors",
        "Options": "hbshim.options",
        "detect": "hbshim.runtime.detect",
        "install": "hbshim.api",
        "keep_alive": "hbshim.api",
        "status": "hbshim.observe.snapshot",
        "take_events": "hbshim.observe.snapshot",
        "mark_alive": "hbshim.heartbeat.liveness",
        "uninstall": "hbshim.api",
        **{name: f"hbshim.{name}" for name in PUBLIC_MODULES if "." not in name},
    },
)
