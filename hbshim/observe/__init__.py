"""Status, metrics, events and the watch socket of a process; each is loaded at its first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hbshim._lazy import lazy_names

if TYPE_CHECKING:
    from hbshim.observe.listening import listen, stop_listening
    from hbshim.observe.logs import keep_logging, log_events

__all__ = ["keep_logging", "listen", "log_events", "stop_listening"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "keep_logging": "hbshim.observe.logs",
        "listen": "hbshim.observe.listening",
        "log_events": "hbshim.observe.logs",
        "stop_listening": "hbshim.observe.listening",
    },
)
