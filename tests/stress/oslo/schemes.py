"""The schemes of transport URLs that are compared."""

from __future__ import annotations

from importlib.metadata import entry_points

GROUP = "oslo.messaging.drivers"
STOCK = "rabbit"


#: The scheme that has no broker.
ZMQ = "hbzmq"

#: The scheme over AMQP 1.0, and its other name.
AMQP1, FORMER = "hbamqp", "amqp"


def ours() -> tuple[str, ...]:
    """Return the schemes of hbshim that are installed here and work over RabbitMQ."""
    found = entry_points(group=GROUP)
    names = {each.name for each in found if each.value.startswith("hbshim.")}
    return tuple(sorted(names - {ZMQ, FORMER}))


def over_0_9_1() -> tuple[str, ...]:
    """Return those whose options include ``[oslo_messaging_rabbit]``."""
    return tuple(scheme for scheme in ours() if scheme != AMQP1)


def url(amqp_url: str, scheme: str) -> str:
    """Return a broker's URL with another scheme."""
    return f"{scheme}://{amqp_url.partition('://')[2]}"
