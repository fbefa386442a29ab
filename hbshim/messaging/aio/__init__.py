"""Messaging for asyncio: CALL, CAST, FANOUT and NOTIFY over the drivers of `hbshim.messaging`.

Example::

    async with aio.connect("hbpika://user:password@host/") as driver:
        client = aio.Client(driver, messaging.Target("compute"))
        await client.call("create", name="one")

The drivers beneath use native threads. docs/asyncio.md lists what runs where.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hbshim._lazy import lazy_names

if TYPE_CHECKING:
    from hbshim.messaging.aio.client import Client, Task
    from hbshim.messaging.aio.driver import Driver, connect
    from hbshim.messaging.aio.notify import Listener, NotificationServer, Notifier
    from hbshim.messaging.aio.server import Request, Server

__all__ = [
    "Client",
    "Driver",
    "Listener",
    "NotificationServer",
    "Notifier",
    "Request",
    "Server",
    "Task",
    "connect",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Client": "hbshim.messaging.aio.client",
        "Driver": "hbshim.messaging.aio.driver",
        "Listener": "hbshim.messaging.aio.notify",
        "NotificationServer": "hbshim.messaging.aio.notify",
        "Notifier": "hbshim.messaging.aio.notify",
        "Request": "hbshim.messaging.aio.server",
        "Server": "hbshim.messaging.aio.server",
        "Task": "hbshim.messaging.aio.client",
        "connect": "hbshim.messaging.aio.driver",
    },
)
