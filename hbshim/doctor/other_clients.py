"""AMQP clients beside py-amqp and pika: those that hbshim keeps alive, and others."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from hbshim.adapters.celery.apps import AppFacts
from hbshim.doctor.target import Target
from hbshim.runtime.loaded import is_loaded, peek

#: Modules of AMQP clients that hbshim keeps alive, and their names in reports.
KNOWN_CLIENTS = {
    "aiormq": "aiormq",
    "proton": "qpid-proton",
    "rabbitmq_amqp_python_client": "rabbitmq-amqp-python-client",
}

#: Modules of AMQP clients that hbshim does not know.
UNKNOWN_CLIENTS = (
    "aioamqp",
    "amqpstorm",
    "haigha",
    "librabbitmq",
    "puka",
    "qpid",
    "rabbitpy",
)

LIBRABBITMQ = "kombu.transport.librabbitmq:Transport"

#: Modules of kombu's transports over py-amqp, hbshim's included.
_OVER_PY_AMQP = ("kombu.transport.pyamqp", "hbshim.adapters.")


def loaded_known_clients() -> tuple[str, ...]:
    """Return the modules of :data:`KNOWN_CLIENTS` that are loaded."""
    return tuple(name for name in KNOWN_CLIENTS if is_loaded(name))


def loaded_unknown_clients() -> tuple[str, ...]:
    """Return the modules of :data:`UNKNOWN_CLIENTS` that are loaded."""
    return tuple(name for name in UNKNOWN_CLIENTS if is_loaded(name))


def transport_of_kombu(target: Target | None, apps: Iterable[AppFacts], *, patched: bool) -> str:
    """Return the transport that kombu selects for the program's broker, if not py-amqp's.

    Parameters:
        target: the broker; None for kombu's default scheme, ``amqp``.
        apps: the program's Celery apps, whose configuration names it.
        patched: eventlet or gevent has patched the sockets; kombu then never selects
            librabbitmq.

    Returns:
        Module and class; "" for a transport over py-amqp.
    """
    for app in apps:
        if app.other_client:
            return app.transport
    scheme = "amqp" if target is None else target.scheme
    if target is not None and target.driver not in ("", "rabbit"):
        return ""
    # oslo.messaging's own driver passes an amqp:// URL to kombu.
    scheme = "amqp" if scheme == "rabbit" else scheme
    if scheme == "amqp" and not patched and _installed("kombu") and _installed("librabbitmq"):
        return LIBRABBITMQ
    known = peek("kombu.transport", "TRANSPORT_ALIASES", {}).get(scheme, "")
    named = known if isinstance(known, str) else "a transport of the program's own"
    return "" if not named or named.startswith(_OVER_PY_AMQP) else named


def _installed(name: str) -> bool:
    try:
        return is_loaded(name) or importlib.util.find_spec(name) is not None
    except ValueError:  # a substitute in sys.modules without a specification
        return True
