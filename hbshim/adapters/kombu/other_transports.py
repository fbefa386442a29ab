"""Reports connections of kombu through transports other than py-amqp's.

For ``amqp://`` kombu prefers librabbitmq if it is installed; ``qpid://`` and transports of the
program itself are other clients, too. hbshim keeps none of them alive. Each transport is reported
once in a process, when kombu has connected through it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from typing import Any

import amqp
from kombu.transport import virtual

from hbshim.adapters.attach import OptionsFor
from hbshim.adapters.replacing import replace_once
from hbshim.event_log import log_problems
from hbshim.heartbeat import service
from hbshim.runtime.fork import ProcessLocal

#: Transports that were reported in this process, by module and class.
_reported: ProcessLocal[set[str]] = ProcessLocal(set, lambda inherited: None)


def prepare(options_for: OptionsFor) -> None:
    """Report, while hbshim is installed, what kombu connects through other transports.

    Idempotent.
    """
    # Not kombu.Connection, which is the class of before a reload.
    kind = importlib.import_module("kombu.connection").Connection
    replace_once(kind, "_establish_connection", lambda stock: _reporting(stock, options_for))


def _reporting(establish: Any, options_for: OptionsFor) -> Any:
    @functools.wraps(establish)
    def establish_and_report(self: Any) -> Any:
        connection = establish(self)
        if not isinstance(connection, amqp.Connection) and _installed(options_for):
            # An error here must not end the application's connection.
            with contextlib.suppress(Exception):
                report(self.transport)
        return connection

    return establish_and_report


def _installed(options_for: OptionsFor) -> bool:
    try:
        return options_for({}) is not None
    except Exception:
        return True  # options that cannot be used are an error of install()


def report(transport: Any) -> None:
    """Record an event for `transport`, unless this process has recorded one.

    Parameters:
        transport: any transport of kombu; the event has no part of its URL.
    """
    kind = type(transport)
    place = f"{kind.__module__}.{kind.__qualname__}"
    reported = _reported.get()
    if place in reported:
        return
    reported.add(place)
    library = getattr(transport, "driver_name", None) or place
    name, metrics = f"kombu {library}", service.current().metrics
    sentence = f"kombu connects through {library} ({place}), which"
    if isinstance(transport, virtual.Transport):
        metrics.record("no-amqp", name, f"{sentence} has no AMQP heartbeats")
    else:
        remedy = "use a pyamqp:// URL"
        if library == "librabbitmq":
            remedy += ", or uninstall librabbitmq: kombu prefers it for amqp://"
        metrics.record("not-kept-alive", name, f"{sentence} hbshim does not keep alive; {remedy}")
    log_problems(metrics)
