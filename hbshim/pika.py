"""pika's connections, kept alive from their opening; no ``hbshim.install()`` needed.

::

    from hbshim.pika import BlockingConnection

    connection = BlockingConnection("amqp://user:password@host/%2F?heartbeat=60")

Importing this changes nothing in pika.
"""

from __future__ import annotations

from hbshim.errors import MissingExtraError

try:
    from hbshim.adapters.pika.heartbeat import BlockingConnection, SelectConnection
except ModuleNotFoundError as error:
    if error.name != "pika":
        raise
    raise MissingExtraError("pika", "pika") from None

__all__ = ["BlockingConnection", "SelectConnection"]
