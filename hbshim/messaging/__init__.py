"""Messaging over AMQP: CALL, CAST, FANOUT and NOTIFY, whichever client library is beneath.

Example::

    driver = messaging.connect("hbpika://user:password@host/")
    client = messaging.Client(driver, messaging.Target("compute"))
    client.call("create", name="one")

Most names below need one of the extras `kombu` and `pika`: without it, their first use raises
MissingExtraError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hbshim._lazy import lazy_names

if TYPE_CHECKING:
    from hbshim.messaging.amqp.options import AmqpOptions
    from hbshim.messaging.base import NEVER, Driver, Payload
    from hbshim.messaging.capabilities import Capabilities
    from hbshim.messaging.dispatch import Request
    from hbshim.messaging.drivers import connect
    from hbshim.messaging.encoding import Encoding, JsonSerializer, Serializer
    from hbshim.messaging.notify import REQUEUE, Notification, NotificationServer, Notifier
    from hbshim.messaging.options import MessagingOptions
    from hbshim.messaging.registry import DriverFactory
    from hbshim.messaging.rpc import Client, Task
    from hbshim.messaging.server import Server
    from hbshim.messaging.storing import StoringDriver, require_store
    from hbshim.messaging.target import Target
    from hbshim.options import DEFAULT

__all__ = [
    "DEFAULT",
    "NEVER",
    "REQUEUE",
    "AmqpOptions",
    "Capabilities",
    "Client",
    "Driver",
    "DriverFactory",
    "Encoding",
    "JsonSerializer",
    "MessagingOptions",
    "Notification",
    "NotificationServer",
    "Notifier",
    "Payload",
    "Request",
    "Serializer",
    "Server",
    "StoringDriver",
    "Target",
    "Task",
    "connect",
    "require_store",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "DEFAULT": "hbshim.messaging.base",
        "NEVER": "hbshim.messaging.base",
        "REQUEUE": "hbshim.messaging.notify",
        "AmqpOptions": "hbshim.messaging.amqp.options",
        "Capabilities": "hbshim.messaging.capabilities",
        "Client": "hbshim.messaging.rpc",
        "Driver": "hbshim.messaging.base",
        "DriverFactory": "hbshim.messaging.registry",
        "Encoding": "hbshim.messaging.encoding",
        "JsonSerializer": "hbshim.messaging.encoding",
        "MessagingOptions": "hbshim.messaging.options",
        "Notification": "hbshim.messaging.notify",
        "NotificationServer": "hbshim.messaging.notify",
        "Notifier": "hbshim.messaging.notify",
        "Payload": "hbshim.messaging.base",
        "Request": "hbshim.messaging.dispatch",
        "Serializer": "hbshim.messaging.encoding",
        "Server": "hbshim.messaging.server",
        "StoringDriver": "hbshim.messaging.storing",
        "Target": "hbshim.messaging.target",
        "Task": "hbshim.messaging.rpc",
        "connect": "hbshim.messaging.drivers",
        "require_store": "hbshim.messaging.storing",
    },
)
