"""The settings of a directory beside its address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hbshim.messaging.zmq.directory import Pipeline

#: The ports of the specification.
PORTS: Mapping[Pipeline, int] = {"call": 9501, "fanout": 9502, "notify": 9503, "cast": 9504}


#: How many renewals a lease outlasts.
RENEWALS = 3


@dataclass(frozen=True)
class DirectorySettings:
    """How a directory is used.

    Attributes:
        expire: seconds that a lease lasts (``zmq_target_expire``).
        update: seconds after which known routes are looked up again (``zmq_target_update``).
        namespace: separates deployments that share one Redis (``directory_namespace``).
        socket_timeout: seconds that connecting to Redis, and each of its answers, may take.
        wait_timeout: longest first pause, in seconds, before Redis is tried again; it doubles.
        ports: of a host in a static file that has one address.
    """

    expire: float = 15.0
    update: float = 5.0
    namespace: str = "default"
    socket_timeout: float = 2.0
    wait_timeout: float = 0.25
    ports: Mapping[Pipeline, int] = field(default_factory=lambda: PORTS)
