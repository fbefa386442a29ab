"""kombu's Connection, kept alive from its opening; no ``hbshim.install()`` needed.

::

    from hbshim.kombu import Connection

    connection = Connection("amqp://user:password@host//?heartbeat_in_pthread=true", heartbeat=60)

Importing this changes nothing in kombu. :func:`register` does: it gives kombu a transport
``hbshim://``, for programs that name their broker only in a configuration file.
"""

from __future__ import annotations

from hbshim.errors import MissingExtraError

try:
    from hbshim.adapters.kombu.heartbeat import Connection, register
except ModuleNotFoundError as error:
    if error.name not in ("kombu", "amqp"):
        raise
    raise MissingExtraError("kombu", "kombu") from None

__all__ = ["Connection", "register"]
