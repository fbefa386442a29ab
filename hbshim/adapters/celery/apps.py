"""What the connections of a Celery app request, read from the app; nothing is opened."""

from __future__ import annotations

import contextlib
import math
import sys
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hbshim.errors import AttachError
from hbshim.runtime.loaded import peek
from hbshim.runtime.weak import members

#: Celery's default of ``broker_heartbeat``, in seconds.
BROKER_HEARTBEAT = 120


@dataclass(frozen=True)
class AppFacts:
    """One Celery app.

    Attributes:
        name: of the app.
        prepared: it was passed to :func:`hbshim.install`.
        heartbeat: seconds that its broker's URL requests; 0 for none.
        options: hbshim's options of its connections, not parsed.
        transport: module and class of kombu's transport for its broker.
        amqp: that transport is py-amqp's.
        other_client: it is another AMQP client's, or unknown; not one without heartbeats,
            such as Redis.
    """

    name: str
    prepared: bool
    heartbeat: int
    options: Mapping[str, object]
    transport: str
    amqp: bool
    other_client: bool


def apps_in_use() -> list[AppFacts]:
    """Return the apps of this process that are in use.

    They have read their configuration, or were passed to install().

    Imports nothing and configures no app: both would change the program. An app whose broker's URL
    cannot be used is left out.
    """
    default = peek("celery._state", "default_app")
    known = members(peek("celery._state", "_apps", weakref.WeakSet()))
    apps = [app for app in known if app.configured or _is_prepared(app)]
    # Celery makes the default app by itself, for code that names none.
    wanted = [app for app in apps if app is not default or len(apps) == 1]
    found = []
    for app in wanted:
        with contextlib.suppress(AttachError):
            found.append(facts_of(app) if app.configured else _before_configuration(app))
    return found


def _is_prepared(app: Any) -> bool:
    return "_connection" in vars(app)


def _before_configuration(app: Any) -> AppFacts:
    """Return what is known of an app that was passed to install() and is not configured yet."""
    heartbeat = vars(app).get("_preconf", {}).get("broker_heartbeat", BROKER_HEARTBEAT)
    return AppFacts(
        name=str(app.main),
        prepared=True,
        heartbeat=0,
        options={"heartbeat": math.ceil(heartbeat or 0)},
        transport="",
        amqp=True,
        other_client=False,
    )


def facts_of(app: Any) -> AppFacts:
    """Return what the connections of `app` request; reads its configuration if necessary.

    Raises:
        AttachError: it is not a Celery app, or its broker's URL cannot be used.
    """
    celery = sys.modules.get("celery")
    if celery is None or not isinstance(app, celery.Celery):
        raise AttachError(
            f"the doctor takes a Celery app, not {type(app).__module__}.{type(app).__qualname__}"
        )
    from kombu.transport import pyamqp, virtual

    from hbshim.adapters.kombu.heartbeat import connection_options

    try:
        connection = app.connection_for_write()
        transport = connection.get_transport_cls()
    except Exception as error:
        raise AttachError(
            f"the broker's URL of Celery app {app.main!r} cannot be used "
            f"({type(error).__name__}); correct broker_url"
        ) from None
    amqp = issubclass(transport, pyamqp.Transport)
    return AppFacts(
        name=str(app.main),
        prepared=_is_prepared(app),
        heartbeat=int(connection.heartbeat or 0),
        options=connection_options(connection),
        transport=f"{transport.__module__}.{transport.__qualname__}",
        amqp=amqp,
        other_client=not amqp and not issubclass(transport, virtual.Transport),
    )
