"""The schemes of transport URLs that are compared."""

from __future__ import annotations

from importlib.metadata import entry_points

GROUP = "oslo.messaging.drivers"
STOCK = "rabbit"


def ours() -> tuple[str, ...]:
    """Return the schemes of hbshim that are installed here."""
    found = entry_points(group=GROUP)
    return tuple(sorted({each.name for each in found if each.value.startswith("hbshim.")}))


def url(amqp_url: str, scheme: str) -> str:
    """Return a broker's URL with another scheme."""
    return f"{scheme}://{amqp_url.partition('://')[2]}"
