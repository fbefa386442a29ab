"""The URL schemes that have a driver; no driver is loaded.

A package adds a driver by an entry point in the group :data:`GROUP`, whose name is the scheme.
hbshim's own schemes are in :data:`BUILT_IN` as well: they work from a checkout that is not
installed, and cost no search through what is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

#: The group of entry points that name drivers.
GROUP = "hbshim.drivers"

#: hbshim's own drivers. setup.py declares the same ones in :data:`GROUP`.
BUILT_IN = {
    "hbkombu": "hbshim.messaging.amqp.factory:KOMBU",
    "hbpika": "hbshim.messaging.amqp.factory:PIKA",
    "hbzmq": "hbshim.messaging.zmq.factory:ZMQ",
    "hbamqp": "hbshim.messaging.amqp1.factory:PLAIN",
    "hbamqps": "hbshim.messaging.amqp1.factory:TLS",
}


def schemes() -> tuple[str, ...]:
    """Return all schemes that have a driver."""
    return (*BUILT_IN, *sorted(set(installed()) - set(BUILT_IN)))


def has_driver(scheme: str) -> bool:
    """Return whether `scheme` has a driver."""
    return scheme in BUILT_IN or scheme in installed()


def installed() -> dict[str, EntryPoint]:
    """Return the entry points in :data:`GROUP`, by scheme."""
    # Not at import: it takes longer than the rest of this module.
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=GROUP)}
