"""``hbrabbit://``: oslo.messaging's own RabbitDriver, with heartbeats by hbshim.

A service changes only the scheme of its transport URL: queues, exchanges, messages and options stay
the same, and services with ``rabbit://`` work with it.
"""

from __future__ import annotations

import copy
import socket
from collections.abc import Mapping
from typing import Any

import hbshim
from hbshim.adapters.oslo import rabbit as adapter
from hbshim.adapters.oslo.base import RABBIT_GROUP, polled_by
from hbshim.oslo import heartbeat_options
from hbshim.oslo.joint_listener import OtherTransports, foreign_member

#: The scheme from which a driver that does not know hbshim's derives kombu's transport.
_STOCK_SCHEME = "rabbit"

#: Seconds that a starting service waits for the transports of ``listen_also``.
OPEN_LIMIT = 10.0


class RabbitDriver(adapter.RabbitDriver):
    """See the module.

    Parameters:
        conf: an ``oslo_config.cfg.ConfigOpts``; its group ``oslo_messaging_rabbit`` holds
            oslo.messaging's options and those of :mod:`hbshim.oslo.heartbeat_options`.
        url: an ``oslo_messaging.TransportURL``; options in its query win.
        default_exchange, allowed_remote_exmods: as oslo.messaging's own.

    Raises:
        OptionError: an option is not valid.
    """

    def __init__(
        self, conf: Any, url: Any, default_exchange: Any = None, allowed_remote_exmods: Any = None
    ) -> None:
        heartbeat_options.register(conf)
        # Here, and not at the first connection: an invalid option is an error at once.
        heartbeat_options.load(conf, url.query)

        def options_for() -> Mapping[str, object]:
            return heartbeat_options.load(conf, url.query).for_connection()

        stock = copy.copy(url)
        stock.transport = _STOCK_SCHEME
        announced = {"hbshim_version": hbshim.__version__, "hostname": socket.gethostname()}
        super().__init__(
            options_for, announced, conf, stock, default_exchange, allowed_remote_exmods
        )
        self._others = OtherTransports(conf, RABBIT_GROUP, default_exchange, allowed_remote_exmods)

    def listen(self, target: Any, batch_size: int, batch_timeout: float | None) -> Any:
        alone = super().listen(target, batch_size, batch_timeout)
        if not self._others:
            return alone
        own = foreign_member(lambda: polled_by(alone))
        return self._others.joined(own, 0, target, batch_size, batch_timeout, OPEN_LIMIT)

    def cleanup(self) -> None:
        self._others.cleanup()
        super().cleanup()
