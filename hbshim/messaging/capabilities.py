"""What a driver can do beyond sending messages to servers that run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a driver offers; nothing, unless it is named.

    Attributes:
        stores: keeps requests and results for processes that do not run yet: the driver is a
            :class:`hbshim.messaging.base.StoringDriver`.
        requeues: :meth:`hbshim.messaging.base.Incoming.requeue` has a message handled later.
        pools: several pools of listeners each get all notifications of a topic.
        mandatory: `mandatory` of a call or cast reports that no server has a queue for it.
        survives_restart: what is stored survives a restart of the broker, as far as it was sent
            to last: submitted requests are; notifications are with `notification_persistence`.
    """

    stores: bool = False
    requeues: bool = False
    pools: bool = False
    mandatory: bool = False
    survives_restart: bool = False
