"""Celery: every AMQP connection of an app asks for a heartbeat, those of its pools first.

Celery asks for one (``broker_heartbeat``) only where its worker consumes in an event
loop or a green pool. The pools that a web process publishes from ask for none, and so
do the ``solo`` and ``threads`` workers: nobody would beat, and an idle connection is
dropped by whatever lies between. hbshim beats, so here all of them may ask.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import celery
from celery.local import Proxy
from kombu.transport import pyamqp

from hbshim.adapters.attach import OptionsFor, options_for_connect
from hbshim.adapters.kombu.heartbeat import connection_options
from hbshim.adapters.pyamqp.heartbeat import KOMBU_OPTION
from hbshim.adapters.versions import require_attributes, require_version
from hbshim.errors import AttachError

SUPPORTED = ">=5.3,<6"


def prepare_app(app: Any, options_for: OptionsFor) -> None:
    """Have every connection that `app` opens from now on ask for a heartbeat; idempotent.

    Connections over py-amqp that asked for none ask for the option `heartbeat`, or
    else for the app's own ``broker_heartbeat``, which is read when a connection is
    made: the app need not be configured yet. Connections that the app's pools hold
    already are left to whoever uses them; its next publish takes a new one.

    Parameters:
        app: a ``celery.Celery``, or a proxy of one such as ``celery.current_app``.
        options_for: answers None once hbshim is uninstalled; then nothing is asked.

    Raises:
        AttachError: it is no Celery app.
        UnsupportedVersionError: Celery is of a version hbshim does not know.
    """
    # Today's current app, not whichever will be current when a connection is made.
    app = app._get_current_object() if isinstance(app, Proxy) else app
    if not isinstance(app, celery.Celery):
        raise AttachError(
            f"hbshim.install() takes a Celery app, not {type(app).__module__}."
            f"{type(app).__qualname__}; name the app itself, or call install() without one"
        )
    require_version("celery", celery.__version__, SUPPORTED)
    names = ("_connection", "_pool", "conf", "__dict__")
    require_attributes("celery", celery.__version__, SUPPORTED, app, names)
    if "_connection" in vars(app):
        return
    make_connection = app._connection

    @functools.wraps(make_connection)
    def make_asking_connection(*args: Any, **kwargs: Any) -> Any:
        connection = make_connection(*args, **kwargs)
        if issubclass(connection.get_transport_cls(), pyamqp.Transport):
            _ask(connection, app, options_for)
        return connection

    app._connection = make_asking_connection
    _leave_pools(app)


def _ask(connection: Any, app: Any, options_for: OptionsFor) -> None:
    """Put the heartbeat where it travels with the clones that pools make.

    kombu keys its pools by ``transport_options``, but not by the heartbeat: a pool
    that somebody else filled with connections to the same broker is not ours then.
    """
    given = connection_options(connection)
    options = options_for_connect(options_for, lambda: given, f"celery {app.main}")
    if options is not None:
        heartbeat = options.heartbeat or math.ceil(app.conf.broker_heartbeat or 0)
        asking = {**given, "heartbeat": heartbeat}
        connection.transport_options = {
            **(connection.transport_options or {}),
            KOMBU_OPTION: asking,
        }


def _leave_pools(app: Any) -> None:
    """As Celery does in a forked child: the app takes a new pool at its next publish."""
    app._pool = None
    messages = vars(app).get("amqp")
    if messages is not None:
        messages._producer_pool = None
