"""Every option, by group, for oslo-config-generator (entry point ``oslo.config.opts``)."""

from __future__ import annotations

import copy
from typing import Any

from hbshim.adapters.oslo.base import RABBIT_GROUP
from hbshim.oslo import amqp1_settings, joint_listener, settings, zmq_settings
from hbshim.oslo.heartbeat_options import RABBIT_OPTIONS

#: The groups of drivers whose servers may receive from other transports, too.
LISTENING = (RABBIT_GROUP, settings.GROUP, amqp1_settings.GROUP, zmq_settings.GROUP)


def list_opts() -> list[tuple[str, list[Any]]]:
    """Return copies of the options, which the generator may change."""
    return [
        (RABBIT_GROUP, copy.deepcopy(RABBIT_OPTIONS)),
        (settings.GROUP, copy.deepcopy(settings.OPTIONS)),
        (amqp1_settings.GROUP, copy.deepcopy(amqp1_settings.OPTIONS)),
        *((group, copy.deepcopy(joint_listener.OPTIONS)) for group in LISTENING),
        *((group, copy.deepcopy(options)) for group, options in zmq_settings.OPTIONS.items()),
    ]
