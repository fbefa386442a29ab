"""``hbamqp://`` and ``amqp://``: hbshim's driver over AMQP 1.0 in oslo.messaging.

Over a router, services with it and services with oslo.messaging's former driver ``amqp://`` serve
each other: addresses and messages are those of that driver. Over RabbitMQ, exchanges and queues are
those of ``hbkombu://`` and ``hbpika://``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from hbshim.messaging.hosts import Host
from hbshim.oslo import amqp1_settings
from hbshim.oslo.driver import MessagingDriver
from hbshim.oslo.envelopes import FORMER, Envelope
from hbshim.oslo.pair import check_pair


class Amqp1MessagingDriver(MessagingDriver):
    """See the module; parameters and errors are those of the base class."""

    envelope: Envelope = FORMER
    group = amqp1_settings.GROUP
    # Not over a router; over RabbitMQ, the driver adds them.
    suffixes = False

    def _load(self, scheme: str, conf: Any, url: Any) -> tuple[Any, frozenset[str]]:
        amqp1_settings.register(conf)
        self._settings = amqp1_settings.load(conf, url)
        check_pair(conf, url, self._settings.options)
        return self._settings.options, self._settings.chosen

    def _hosts(self, url: Any, default_port: int) -> list[Host]:
        return [self._with_realm(host) for host in super()._hosts(url, default_port)]

    def _with_realm(self, host: Host) -> Host:
        realm = self._settings.realm
        if not realm or host.username is None or "@" in host.username:
            return host
        return dataclasses.replace(host, username=f"{host.username}@{realm}")

    def _notify_limit(self, retry: int | None) -> float:
        limit = self._settings.notify_timeout
        return super()._notify_limit(retry) if limit is None else limit
