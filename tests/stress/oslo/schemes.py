"""The schemes of transport URLs that are compared."""

from __future__ import annotations

from importlib.metadata import entry_points

GROUP = "oslo.messaging.drivers"
STOCK = "rabbit"


#: The scheme that has no broker.
ZMQ = "hbzmq"


def ours() -> tuple[str, ...]:
    """Return the schemes of hbshim that are installed here and need a broker."""
    found = entry_points(group=GROUP)
    names = {each.name for each in found if each.value.startswith("hbshim.")}
    return tuple(sorted(names - {ZMQ}))


def url(amqp_url: str, scheme: str) -> str:
    """Return a broker's URL with another scheme."""
    return f"{scheme}://{amqp_url.partition('://')[2]}"
