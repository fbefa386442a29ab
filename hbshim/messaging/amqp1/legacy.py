"""The addresses that oslo.messaging's former driver had for brokers, such as qpidd.

``exclusive|unicast|broadcast[.VHOST].EXCHANGE.TOPIC[.SERVER|.all]``. Nothing in them is escaped, so
that they are the same as those of that driver.
"""

from __future__ import annotations

from hbshim.messaging.amqp1.routable import Routable


class Legacy(Routable):
    """See :class:`hbshim.messaging.amqp1.routable.Routable`."""

    notifies = True

    def _unicast(self, *names: str) -> str:
        return self._joined(self._options.server_request_prefix, *names)

    def _multicast(self, *names: str) -> str:
        return self._joined(self._options.broadcast_prefix, *names, "all")

    def _anycast(self, prefix: str, *names: str) -> str:
        # Calls and notifications are not distinguished.
        return self._joined(self._options.group_request_prefix, *names)

    def _joined(self, prefix: str, *names: str) -> str:
        return ".".join(filter(None, (prefix, self._virtual_host, *names)))
