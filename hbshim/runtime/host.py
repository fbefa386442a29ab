"""Detects the program that hosts this process, and whose hub it runs between requests.

Every probe inspects modules that are loaded already. Each rule names its source; ``tests/runtime``
and the container harness run the real hosts.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from hbshim.runtime.loaded import is_loaded, module_of, peek

HostKind = Literal["mod_wsgi", "uwsgi", "gunicorn", "celery", "plain"]
HubOwner = Literal["eventlet", "gevent", "program", "outside", "unknown"]


@dataclass(frozen=True)
class HostFacts:
    """The program this process belongs to.

    Attributes:
        kind: the host; "plain" for a program of its own.
        mode: mod_wsgi "embedded" or "daemon"; uWSGI's loop engine or "sync";
            gunicorn's worker class; Celery's pool; None for a plain program.
        hub: whose hub the host runs between two requests or tasks: "outside" when
            it waits outside any hub, "program" when that is the program's own
            doing, "unknown" when nothing promises either.
        version: the host's version, if known.
        processes: how many processes it may run, if known.
        threads: threads (for uWSGI's async loops: cores) in a process, if known.
        threads_run: False where native threads stand still between requests.
        lazy_apps: uWSGI loads the application after the fork; None elsewhere.
        mpm: Apache's multi-processing module ("prefork", "event").
        process_group: mod_wsgi's, "" when embedded.
        application_group: mod_wsgi's, "" for the main interpreter.
    """

    kind: HostKind
    mode: str | None
    hub: HubOwner
    version: str | None = None
    processes: int | None = None
    threads: int | None = None
    threads_run: bool = True
    lazy_apps: bool | None = None
    mpm: str | None = None
    process_group: str | None = None
    application_group: str | None = None


def inspect_host() -> HostFacts:
    """Return the innermost host: a WSGI process that imports Celery to send tasks is no worker."""
    for probe in _PROBES:
        facts = probe()
        if facts is not None:
            return facts
    return HostFacts(kind="plain", mode=None, hub="program")


def _mod_wsgi() -> HostFacts | None:
    # Outside Apache, pip's package `mod_wsgi` can be imported too; the server adds
    # process_group to it (mod_wsgi 6.1, src/server/wsgi_module.c).
    process_group = peek("mod_wsgi", "process_group")
    if process_group is None:
        return None
    version = peek("mod_wsgi", "version")
    return HostFacts(
        kind="mod_wsgi",
        mode="daemon" if process_group else "embedded",
        # Apache's own loop, in C, runs between requests.
        hub="outside",
        version=None if version is None else ".".join(map(str, version)),
        processes=peek("mod_wsgi", "maximum_processes"),
        threads=peek("mod_wsgi", "threads_per_process"),
        mpm=peek("apache", "mpm_name"),
        process_group=process_group,
        application_group=peek("mod_wsgi", "application_group"),
    )


def _uwsgi() -> HostFacts | None:
    # The package uwsgidecorators and stubs import fine outside; only the server sets `opt`.
    options = peek("uwsgi", "opt")
    if options is None:
        return None
    loop = peek("uwsgi", "loop")
    version = peek("uwsgi", "version")
    return HostFacts(
        kind="uwsgi",
        mode="sync" if loop is None else _text(loop),
        hub="outside" if loop is None else "gevent" if _text(loop) == "gevent" else "unknown",
        version=None if version is None else _text(version),
        processes=peek("uwsgi", "numproc"),
        threads=peek("uwsgi", "cores"),
        threads_run=_uwsgi_threads_run(options),
        lazy_apps=_has_option(options, "lazy-apps") or _has_option(options, "lazy"),
    )


def _uwsgi_threads_run(options: dict[Any, Any]) -> bool:
    # 1 always since uWSGI 2.0.27 (core/init.c); before, --enable-threads or --threads set it.
    has_threads = peek("uwsgi", "has_threads")
    if has_threads is not None:
        return bool(has_threads)
    return _has_option(options, "enable-threads") or _has_option(options, "threads")


def _has_option(options: dict[Any, Any], name: str) -> bool:
    # Keys were str in some builds and bytes in others.
    return name in options or name.encode() in options


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


#: gunicorn's worker modules: worker class as users write it, and whose hub runs.
GUNICORN_WORKERS: dict[str, tuple[str, HubOwner]] = {
    # Waits in select.select() by its module attribute: an application that patches
    # `select` in place turns that wait green by accident, and the hub does run.
    # Nothing promises it, so it is no reason to rely on it.
    "gunicorn.workers.sync": ("sync", "unknown"),
    # Waits in an epoll object made before the application could patch anything.
    "gunicorn.workers.gthread": ("gthread", "outside"),
    "gunicorn.workers.geventlet": ("eventlet", "eventlet"),
    "gunicorn.workers.ggevent": ("gevent", "gevent"),
    "gunicorn.workers.gtornado": ("tornado", "unknown"),
    "gunicorn.workers.gasgi": ("asgi", "unknown"),
}


def _gunicorn() -> HostFacts | None:
    if not is_loaded("gunicorn.arbiter"):
        return None
    # A worker installs its bound methods as signal handlers before it loads the
    # application (gunicorn/workers/base.py, init_signals), so one leads to it.
    worker = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    bases = [module_of(base) for base in type(worker).__mro__]
    config = getattr(worker, "cfg", None) if "gunicorn.workers.base" in bases else None
    # No worker yet (--preload), or the application replaced the handler: gunicorn
    # imports the one worker module of its configuration, and no other.
    candidates = bases if config is not None else list(GUNICORN_WORKERS)
    found = [name for name in candidates if name in GUNICORN_WORKERS and is_loaded(name)]
    unknown: tuple[str, HubOwner] = ("custom", "unknown")
    mode, hub = GUNICORN_WORKERS[found[0]] if found else unknown
    return HostFacts(
        kind="gunicorn",
        mode=mode,
        hub=hub,
        version=peek("gunicorn", "__version__"),
        processes=getattr(config, "workers", None),
        threads=getattr(config, "threads", None),
    )


#: Celery's pool modules, the telling ones first: sizing a pool "auto" loads prefork as well.
CELERY_POOLS: dict[str, tuple[str, HubOwner]] = {
    "celery.concurrency.eventlet": ("eventlet", "eventlet"),
    "celery.concurrency.gevent": ("gevent", "gevent"),
    # These two wait for tasks in kombu's sockets, green only if patched early enough.
    "celery.concurrency.thread": ("threads", "unknown"),
    "celery.concurrency.solo": ("solo", "unknown"),
    # A pool process waits for its next task in a pipe.
    "celery.concurrency.prefork": ("prefork", "outside"),
}


def _celery() -> HostFacts | None:
    # Programs that only send tasks never load a pool. `celery worker -P eventlet` loads
    # it before anything else (celery/__init__.py, maybe_patch_concurrency).
    found = [pool for name, pool in CELERY_POOLS.items() if is_loaded(name)]
    if found:
        mode, hub = found[0]
    elif is_loaded("celery.apps.worker"):
        mode, hub = "custom", "unknown"
    else:
        return None
    return HostFacts(kind="celery", mode=mode, hub=hub, version=peek("celery", "__version__"))


_PROBES: tuple[Callable[[], HostFacts | None], ...] = (_mod_wsgi, _uwsgi, _gunicorn, _celery)
