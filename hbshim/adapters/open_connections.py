"""Finds the open connections of this process that hbshim does not keep alive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hbshim.runtime.loaded import instances_of, module_of, peek


@dataclass(frozen=True)
class Unkept:
    """An open connection that hbshim does not keep alive.

    Attributes:
        library: "py-amqp", "pika" or "aiormq".
        timeout: T, in seconds; 0 for none.
        over_uvloop_tls: it is left alone because no other thread may use its TLS session.
    """

    library: str
    timeout: float
    over_uvloop_tls: bool = False


def unkept_connections() -> list[Unkept]:
    """Return the open connections of py-amqp, pika and aiormq that hbshim does not keep alive.

    These were opened before :func:`hbshim.install`, or were left alone. Imports nothing. It uses
    the garbage collector's lists, which takes some milliseconds.
    """
    found = []
    for module, examine in (
        ("amqp.connection", _of_py_amqp),
        ("pika.connection", _of_pika),
        ("aiormq.connection", _of_aiormq),
    ):
        kind = peek(module, "Connection")
        if kind is not None:
            found += [examine(connection) for connection in instances_of([kind])]
    return [each for each in found if each is not None]


def _of_py_amqp(connection: Any) -> Unkept | None:
    transport = getattr(connection, "_transport", None)
    if transport is None or not transport.connected or hasattr(transport, "hbshim_link"):
        return None
    return Unkept("py-amqp", float(connection.heartbeat or 0))


def _of_pika(connection: Any) -> Unkept | None:
    checker = getattr(connection, "_heartbeat_checker", None)
    if not connection.is_open or type(checker).__module__.startswith("hbshim."):
        return None
    timeout = connection.params.heartbeat
    return Unkept("pika", float(timeout) if isinstance(timeout, (int, float)) else 0.0)


def _of_aiormq(connection: Any) -> Unkept | None:
    if not connection.is_opened or "hbshim_link" in vars(connection):
        return None
    # Not at the top: it imports aiormq, which is loaded here.
    from hbshim.adapters.aiormq.heartbeat import transport_of

    kind = type(transport_of(connection))
    return Unkept(
        "aiormq",
        float(connection.heartbeat_timeout or 0),
        over_uvloop_tls=module_of(kind).startswith("uvloop.") and "SSL" in kind.__qualname__,
    )
