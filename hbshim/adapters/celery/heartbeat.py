"""Celery: every AMQP connection of an app requests a heartbeat, above all those of its pools.

Celery requests one (``broker_heartbeat``) only if its worker consumes in an event loop or a green
pool. The pools from which a web process publishes request none, and neither do the ``solo`` and
``threads`` workers: nothing would send heartbeats, and a device on the path drops an idle
connection. hbshim sends heartbeats, so with it all connections may request them.
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

#: Where an app has that it is prepared.
_PREPARED = "hbshim_prepared"


def prepare_app(app: Any, options_for: OptionsFor) -> None:
    """Have every connection that `app` opens from now on request a heartbeat; idempotent.

    Connections over py-amqp that requested none request the option `heartbeat`, or else the app's
    own ``broker_heartbeat``, which is read when a connection is made: the app need not be
    configured yet. Connections that are in the app's pools already stay as they are; the app's next
    publish takes a new pool.

    Parameters:
        app: a ``celery.Celery``, or a proxy of one such as ``celery.current_app``.
        options_for: returns None once hbshim is uninstalled; then nothing is requested.

    Raises:
        AttachError: it is not a Celery app.
        UnsupportedVersionError: hbshim does not know this version of Celery.
    """
    # The app that is current now, not when a connection is made.
    app = app._get_current_object() if isinstance(app, Proxy) else app
    if not isinstance(app, celery.Celery):
        raise AttachError(
            f"hbshim.install() takes a Celery app, not {type(app).__module__}."
            f"{type(app).__qualname__}; name the app itself, or call install() without one"
        )
    require_version("celery", celery.__version__, SUPPORTED)
    names = ("_connection", "_pool", "conf", "__dict__")
    require_attributes("celery", celery.__version__, SUPPORTED, app, names)
    if _PREPARED in vars(app):
        return
    # Another thread may be doing the same, or may have been interrupted: whichever returns first,
    # the app asks.
    vars(app).setdefault("_connection", _asking(app._connection, app, options_for))
    _leave_pools(app)
    setattr(app, _PREPARED, True)


def _asking(make_connection: Any, app: Any, options_for: OptionsFor) -> Any:
    @functools.wraps(make_connection)
    def make_asking_connection(*args: Any, **kwargs: Any) -> Any:
        connection = make_connection(*args, **kwargs)
        if issubclass(connection.get_transport_cls(), pyamqp.Transport):
            _ask(connection, app, options_for)
        return connection

    return make_asking_connection


def _ask(connection: Any, app: Any, options_for: OptionsFor) -> None:
    """Set the heartbeat where the clones that pools make inherit it.

    kombu's pools have ``transport_options`` in their keys, but not the heartbeat. So a pool with
    connections to the same broker, which other code has filled, is not used for these.
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
    """Do what Celery does in a forked child: the app takes a new pool at its next publish."""
    app._pool = None
    messages = vars(app).get("amqp")
    if messages is not None:
        messages._producer_pool = None
