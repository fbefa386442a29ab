"""rabbitmq-amqp-python-client, which has a copy of proton's Python part."""

from __future__ import annotations

from hbshim.adapters.attach import OptionsFor
from hbshim.adapters.proton import heartbeat

_PROTON = "rabbitmq_amqp_python_client.qpid.proton"


def prepare(options_for: OptionsFor) -> None:
    """Have each of its connections attached, while hbshim is installed."""
    heartbeat.prepare(options_for, _PROTON)
