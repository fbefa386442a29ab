"""What a driver reports of itself, from any thread."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from hbshim.messaging.zmq import io
from hbshim.observe.drivers import PATTERNS, ZmqStatus

if TYPE_CHECKING:
    from hbshim.messaging.zmq.caller import Caller
    from hbshim.messaging.zmq.listener import ZmqListener
    from hbshim.messaging.zmq.traffic import Traffic

#: Counters of messages that a limit of this process dropped.
_DROPPED = ("zmq_casts_dropped", "zmq_publications_dropped", "zmq_subscribers_behind")


def status_of(
    name: str, traffic: Traffic, caller: Caller | None, listeners: Iterable[ZmqListener]
) -> ZmqStatus:
    """Return the status of a driver in this process.

    Parameters:
        caller, listeners: those that it has in this process.
    """
    counters = traffic.snapshot()
    opened = [each for each in listeners if each.is_open]
    return ZmqStatus(
        name=name,
        hosts=dict.fromkeys(PATTERNS, 0) if caller is None else caller.connected,
        calls_waiting=0 if caller is None else caller.waiting,
        listeners=len(opened),
        sent={pattern: counters.get(f"zmq_sent_{pattern}", 0) for pattern in PATTERNS},
        received={pattern: counters.get(f"zmq_received_{pattern}", 0) for pattern in PATTERNS},
        dropped=sum(counters.get(each, 0) for each in _DROPPED),
        expired=counters.get("zmq_requests_expired", 0),
        gaps=counters.get("zmq_publications_missed", 0),
        outbox_bytes=(0 if caller is None else caller.pusher.size)
        + sum(each.outbox_bytes for each in opened),
        inbox_bytes=sum(each.inbox_bytes for each in opened),
        io_idle=io.idle(),
    )
