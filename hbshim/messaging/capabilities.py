"""What a driver can do beyond sending messages to running servers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The capabilities of a driver; each is False by default.

    Attributes:
        stores: it stores requests and results for processes that do not run yet: the driver is a
            :class:`hbshim.messaging.storing.StoringDriver`.
        requeues: :meth:`hbshim.messaging.base.Incoming.requeue` has a message handled later.
        pools: each of several pools of listeners gets all notifications of a topic.
        mandatory: `mandatory` of a call or cast reports that no server has a queue for it.
        survives_restart: what is stored as persistent survives a restart of the broker:
            submitted requests, and notifications with `notification_persistence`.
    """

    stores: bool = False
    requeues: bool = False
    pools: bool = False
    mandatory: bool = False
    survives_restart: bool = False
