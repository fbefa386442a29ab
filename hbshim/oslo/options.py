"""Every option, by group, for oslo-config-generator (entry point ``oslo.config.opts``)."""

from __future__ import annotations

import copy
from typing import Any

from hbshim.adapters.oslo.base import RABBIT_GROUP
from hbshim.oslo import settings, zmq_settings
from hbshim.oslo.heartbeat_options import RABBIT_OPTIONS


def list_opts() -> list[tuple[str, list[Any]]]:
    """Return copies of the options, which the generator may change."""
    return [
        (RABBIT_GROUP, copy.deepcopy(RABBIT_OPTIONS)),
        (settings.GROUP, copy.deepcopy(settings.OPTIONS)),
        *((group, copy.deepcopy(options)) for group, options in zmq_settings.OPTIONS.items()),
    ]
