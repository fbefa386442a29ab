"""Attaches a connection to the heartbeat service; used by every adapter.

In a wrapped ``connect()`` an error of hbshim never reaches the application: the connection is then
left as it would be without hbshim, with an event and a log record.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from hbshim.errors import AttachError
from hbshim.event_log import log_problems
from hbshim.heartbeat import service
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.workers import require_library
from hbshim.options import Options
from hbshim.runtime.choice import Choice
from hbshim.runtime.detect import choose_worker
from hbshim.runtime.fork import OPENED_BEFORE_FORK
from hbshim.runtime.interpreter import require_gil

#: Returns the options of a connection that is being opened, given those in its URL; None while
#: hbshim is not installed.
OptionsFor: TypeAlias = Callable[[Mapping[str, object]], Options | None]


_OF_WORKER = frozenset({"heartbeat_in_pthread", "worker"})
#: Options that can be applied to an open connection.
_OF_LINK = _OF_WORKER | {"liveness_timeout", "watch_socket"}


class HeartbeatWarning(UserWarning):
    """The worker that the user chose is known to fail in this process."""


def options_for_connect(
    load: OptionsFor, url: Callable[[], Mapping[str, object]], name: str
) -> Options | None:
    """Return the options of a connection that is being opened.

    Parameters:
        load: reads all sources of options.
        url: returns the options in the URL of this connection.
        name: of the connection, for the event; without credentials.

    Returns:
        None if the connection is to be left alone: hbshim is not installed, or its options cannot
        be read any longer.

    Raises:
        OptionError: an option of the URL is not valid.
    """
    given: Mapping[str, object] = {}
    try:
        given = url()
        return load(given)
    except Exception as error:
        if given and _is_loadable(load):
            raise
        leave_alone(name, error)
        return None


def _is_loadable(load: OptionsFor) -> bool:
    try:
        load({})
    except Exception:
        return False
    return True


def ready(options: Options, name: str) -> bool:
    """Return whether a connection can be kept alive; starts the worker for it.

    Called before hbshim negotiates a heartbeat that the application did not request, because
    without heartbeats the broker would close that connection. Raises nothing; records the error.

    Parameters:
        options: of the connection.
        name: of the connection, for the event; without credentials.
    """
    try:
        heartbeats, choice, forced = _choose(options)
        heartbeats.engine(choice.worker, forced).start()
    except Exception as error:
        leave_alone(name, error)
        return False
    return True


def check_worker(options: Options) -> None:
    """Check the heartbeat worker, as far as possible before a connection is opened.

    Raises:
        WorkerError: it needs a library that this program has not loaded.
    """
    try:
        worker = _choose(options)[1].worker
    except Exception:
        return  # recorded when the connection is left alone
    require_library(worker)


def attach_or_leave(
    attach: Callable[..., Link | None], connection: Any, options: Options, name: str
) -> bool:
    """Call an adapter's `attach` for a connection that was just opened.

    Returns:
        False if it failed: the connection is as it would be without hbshim.
    """
    try:
        attach(connection, options, new=True)
    except Exception as error:
        leave_alone(name, error)
        return False
    return True


def leave_alone(name: str, error: Exception, kind: str = "not-kept-alive") -> None:
    """Record that a connection is not kept alive because of `error`; raises nothing.

    Parameters:
        name: of the connection; without credentials.
        error: the reason.
        kind: of the event.
    """
    with contextlib.suppress(Exception):
        metrics = service.current().metrics
        reason = str(error) or type(error).__name__
        metrics.record(kind, name, f"{reason}; left as it is without hbshim")
        log_problems(metrics)


def watch(link: Link, options: Options) -> None:
    """Choose the worker for `link` and start its heartbeats.

    Raises:
        WorkerError: the worker cannot run in this process.
    """
    heartbeats, choice, forced = _choose(options)
    if choice.warning:
        heartbeats.metrics.record("choice-warning", link.name, choice.warning)
        # With the program's filters a warning may be an error. The event is logged, too.
        with contextlib.suppress(HeartbeatWarning):
            warnings.warn(choice.warning, HeartbeatWarning, stacklevel=2)
    link.liveness_timeout = options.liveness_timeout
    heartbeats.watch(link, choice.worker, forced=forced)
    heartbeats.metrics.count("links_watched")
    _open_watch_socket(options)
    log_problems(heartbeats.metrics)


def change(link: Link, options: Options) -> None:
    """Apply options, given by URL or keyword, to a link that is watched already.

    Raises:
        WorkerError: the chosen worker cannot run in this process.
    """
    if not options.given & _OF_LINK:
        return
    heartbeats = service.current()
    if "liveness_timeout" in options.given:
        link.liveness_timeout = options.liveness_timeout
    if options.given & _OF_WORKER:
        _, choice, forced = _choose(options)
        heartbeats.watch(link, choice.worker, forced=forced)
    else:
        heartbeats.recheck(link)
    if "watch_socket" in options.given:
        _open_watch_socket(options)


def _open_watch_socket(options: Options) -> None:
    # At each connection, because the first of a forked worker may be the first call in its process.
    if options.watch_socket != "off":
        from hbshim.observe.listening import offer

        offer(options.watch_socket)


def _choose(options: Options) -> tuple[service.HeartbeatService, Choice, bool]:
    """Return the service, the choice of the worker, and whether the user forced it.

    Raises:
        WorkerError: this Python runs without the GIL.
    """
    require_gil()
    heartbeats = service.current()
    forced = options.forced_worker is not None or options.heartbeat_in_pthread is False
    # The user's choice takes precedence; hbshim's own yields to the measured lateness.
    in_pthread = True if heartbeats.moved and not forced else options.heartbeat_in_pthread
    choice = choose_worker(in_pthread, options.forced_worker, heartbeats.worker_late())
    return heartbeats, choice, forced


def not_negotiated(name: str, options: Options) -> None:
    """Record that a connection has no heartbeat: neither side requested one."""
    _open_watch_socket(options)
    metrics = service.current().metrics
    metrics.record(
        "not-negotiated",
        name,
        "the connection negotiated no heartbeat, so none is sent; ask for one with heartbeat=60, "
        "or with the option heartbeat (HBSHIM_HEARTBEAT=60) for py-amqp, kombu and proton",
    )
    log_problems(metrics)


def refuse_inherited(link: Link) -> None:
    """Refuse to keep a connection alive in a forked child of the process that opened it.

    Raises:
        AttachError: it belongs to the parent.
    """
    if link.inherited:
        link.orphan()
        raise AttachError(OPENED_BEFORE_FORK)
