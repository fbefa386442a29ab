"""The heartbeat timeout that each client of the program requests, and the resulting T.

The doctor's own connection does not show it, because it requests a T of its own. The clients
differ if the program requests none: py-amqp and kombu, and so Celery's producers, then have no
heartbeat; pika takes the broker's value.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass

from hbshim.adapters.celery.apps import AppFacts
from hbshim.doctor.target import OSLO_SCHEMES, Target
from hbshim.options import Options
from hbshim.runtime.loaded import is_loaded

#: Loaded modules that show that a program uses a client: kombu and Celery use py-amqp.
MODULES = {"amqp": ("amqp", "kombu", "celery"), "pika": ("pika",)}

#: oslo.messaging's default of ``heartbeat_timeout_threshold``, in seconds.
OSLO_DEFAULT = 60

_OPTION = "the option heartbeat"
_URL = "the URL"


@dataclass(frozen=True)
class Proposal:
    """What one client requests.

    Attributes:
        client: as reports name it.
        seconds: 0 requests no heartbeat; None takes the broker's value.
        source: what determines the value; "" if nothing requests a heartbeat.
        smaller_wins: the broker's value is taken if it is smaller.
    """

    client: str
    seconds: int | None
    source: str
    smaller_wins: bool = True

    def negotiated(self, suggested: int | None) -> float | None:
        """Return T in seconds, 0 for none; None if only the broker knows.

        Parameters:
            suggested: the broker's value; None if it is not known.
        """
        if self.seconds is None:
            return suggested
        if not self.seconds or not suggested or not self.smaller_wins:
            return self.seconds
        return min(self.seconds, suggested)


def clients_in_use(named: str | None) -> tuple[str, ...]:
    """Return the client libraries, "amqp" and "pika", that the program uses.

    The named one; otherwise those that are loaded; otherwise, as in a shell, those that are
    installed.
    """
    if named is not None:
        return (named,)
    return loaded_clients() or tuple(
        name for name in MODULES if importlib.util.find_spec(name) is not None
    )


def loaded_clients() -> tuple[str, ...]:
    """Return the client libraries that this process has loaded."""
    return tuple(name for name, modules in MODULES.items() if any(map(is_loaded, modules)))


def proposals(
    target: Target | None,
    options: Options,
    clients: Iterable[str],
    apps: Iterable[tuple[AppFacts, Options]] = (),
) -> tuple[Proposal, ...]:
    """Return what each client of the program requests, as far as it is known.

    Parameters:
        target: the program's broker; None if it is not known; then what its URL requests is not
            known either.
        options: hbshim's options in this process.
        clients: see :func:`clients_in_use`.
        apps: the program's Celery apps, each with hbshim's options of its connections.
    """
    if target is not None and target.driver:
        return (_of_driver(target, options),)
    found = [_of_app(app, own) for app, own in apps if app.amqp]
    for client in clients:
        # In a Celery program the URL is the app's.
        if client == "amqp" and not found and (target is not None or options.heartbeat):
            found.append(_of_amqp(target, options))
        if client == "pika" and target is not None and target.client in (None, "pika"):
            found.append(_of_pika(target, options))
    return tuple(found)


def _of_amqp(target: Target | None, options: Options) -> Proposal:
    if target is not None and target.heartbeat:
        return Proposal("py-amqp", target.heartbeat, _URL)
    if options.heartbeat:
        return Proposal("py-amqp", options.heartbeat, _OPTION)
    explicit = target is not None and target.heartbeat == 0
    return Proposal("py-amqp", 0, _URL if explicit else "")


def _of_pika(target: Target, options: Options) -> Proposal:
    if target.heartbeat == 0 and options.heartbeat:
        return Proposal("pika", options.heartbeat, _OPTION, smaller_wins=False)
    # A value above 0 from the program always takes precedence there.
    source = "the broker" if target.heartbeat is None else _URL
    return Proposal("pika", target.heartbeat, source, smaller_wins=False)


def _of_app(app: AppFacts, options: Options) -> Proposal:
    client = f"Celery app {app.name!r}"
    if app.heartbeat:
        return Proposal(client, app.heartbeat, _URL)
    if app.prepared:
        return Proposal(client, options.heartbeat, "hbshim.install(app)")
    return Proposal(client, options.heartbeat, _OPTION if options.heartbeat else "")


def _of_driver(target: Target, options: Options) -> Proposal:
    client = f"{target.driver}://"
    if target.driver in OSLO_SCHEMES:
        source = "oslo.messaging's default, unless heartbeat_timeout_threshold is set"
        return Proposal(client, OSLO_DEFAULT, source)
    if target.heartbeat:
        return Proposal(client, target.heartbeat, "heartbeat_interval", _over_kombu(target))
    if options.heartbeat and _over_kombu(target):
        return Proposal(client, options.heartbeat, _OPTION)
    return Proposal(client, None, "the broker")


def _over_kombu(target: Target) -> bool:
    return target.driver == "hbkombu"
