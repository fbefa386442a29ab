"""Messaging over AMQP: CALL, CAST, FANOUT and NOTIFY, whichever client library is beneath.

Example::

    driver = messaging.connect("hbpika://user:password@host/")
    client = messaging.Client(driver, messaging.Target("compute"))
    client.call("create", name="one")

Most names below need one of the extras `kombu` and `pika`: without it, their first use raises
MissingExtraError.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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

_HOMES = {
    "DEFAULT": "base",
    "NEVER": "base",
    "REQUEUE": "notify",
    "AmqpOptions": "amqp.options",
    "Capabilities": "capabilities",
    "Client": "rpc",
    "Driver": "base",
    "DriverFactory": "registry",
    "Encoding": "encoding",
    "JsonSerializer": "encoding",
    "MessagingOptions": "options",
    "Notification": "notify",
    "NotificationServer": "notify",
    "Notifier": "notify",
    "Payload": "base",
    "Request": "dispatch",
    "Serializer": "encoding",
    "Server": "server",
    "StoringDriver": "storing",
    "Target": "target",
    "Task": "rpc",
    "connect": "drivers",
    "require_store": "storing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hbshim.messaging' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"hbshim.messaging.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
