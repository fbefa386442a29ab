"""The functions that an application calls: install, uninstall, keep_alive.

Importing this module and calling ``install()`` cost a program almost nothing until it imports a
client library: the rest is imported then.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys

from hbshim._import_hooks import hand_over, when_imported, when_reloaded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, TypeVar

    from typing_extensions import Unpack

    from hbshim.options import AttachOptions, InstallOptions, Options

    C = TypeVar("C")

#: Keywords of the last install(); None while not installed. Connections are opened by code that
#: does not know hbshim, so this has to be module state.
_installed: dict[str, Any] | None = None

#: The environment variables that :class:`Options` reads; repeated here to avoid the import.
_VARIABLES = (
    "HBSHIM_CONFIG",
    "HBSHIM_HEARTBEAT",
    "HBSHIM_HEARTBEAT_IN_PTHREAD",
    "HBSHIM_LIVENESS_TIMEOUT",
    "HBSHIM_STRIP_POLLING",
    "HBSHIM_WATCH_SOCKET",
    "HBSHIM_WORKER",
)

#: Options without effect on a connection that is open already.
_BEFORE_CONNECT = ("heartbeat", "strip_polling")


def install(
    app: Any = None,
    /,
    *,
    config: Mapping[str, object] | None = None,
    **options: Unpack[InstallOptions],
) -> None:
    """Keep alive each connection of py-amqp, kombu, pika, aiormq or proton opened from now on.

    Imports none of these libraries: each is prepared when the program imports it, or at once if it
    is imported already. Call it at any time, before or after ``monkey_patch()``, from any thread.
    Another call replaces the options. If two threads call it at the same time, the libraries are
    prepared when either of them returns.

    Parameters:
        app: a Celery app. Each of its connections then requests a heartbeat, also those of its
            producer pool, for which Celery itself requests none. They request the option
            `heartbeat`, or else the app's ``broker_heartbeat``.
        config: options from the application's own configuration, by name; the environment, URLs
            and keywords take precedence.
        options: see :class:`hbshim.Options`; they take precedence over everything else.

    Raises:
        AttachError: `app` is not a Celery app.
        OptionError: an option is not valid.
        UnsupportedVersionError: hbshim does not know this version of Celery.
        WorkerError: this Python runs without the GIL.
    """
    global _installed
    if not getattr(sys, "_is_gil_enabled", _yes)():
        importlib.import_module("hbshim.runtime.interpreter").require_gil()
    if app is None and config is None and not options and _has_only_defaults():
        keywords: dict[str, Any] = {"config": {}}
    else:
        keywords = _load(app, config, options)
    _installed = keywords
    # At each call: what another one has begun may not be complete, or was interrupted. Without a
    # lock, for which a thread might wait whose import another thread waits for.
    for module in _PREPARED_BY:
        when_imported(module, functools.partial(_prepare, module))
    for module, prepared in _PREPARED_AGAIN.items():
        when_reloaded(module, functools.partial(_prepare, prepared))


def _yes() -> bool:
    return True


def _has_only_defaults() -> bool:
    """Whether no source sets an option, and nothing has to be done before the first import."""
    return (
        _installed is None
        and "eventlet.patcher" not in sys.modules
        and not any(map(os.environ.get, _VARIABLES))
    )


def _load(app: Any, config: Mapping[str, object] | None, options: InstallOptions) -> dict[str, Any]:
    """Check the options and apply those that take effect at once; return install()'s keywords."""
    from hbshim.options import Options
    from hbshim.runtime import polling

    # The configuration file is read only here. Later the process may have dropped its privileges,
    # and no connect() must fail because it cannot read the file.
    config = Options.read_config() if config is None else config
    loaded = Options.load(config=config, **options)
    if app is not None:
        _prepare_app(app)
    if loaded.strip_polling:
        polling.strip_polling(on_install=True)
    else:
        polling.restore_polling(on_install=True)
    if loaded.watch_socket != "off":
        from hbshim.observe.listening import offer

        offer(loaded.watch_socket)
    return {"config": config, **options}


def _prepare_app(app: Any) -> None:
    # Only a library that is loaded can have made this app.
    if "celery" not in _libraries_of(app) or "celery" not in sys.modules:
        from hbshim.errors import AttachError

        raise AttachError(
            f"hbshim.install() takes a Celery app before its keywords, not "
            f"{_name_of(type(app))}; give it options by keyword or as config=, and a "
            "connection to hbshim.keep_alive()"
        )
    importlib.import_module("hbshim.adapters.celery.heartbeat").prepare_app(app, connection_options)


#: The adapter that prepares a library, after this module of it has been imported completely.
_PREPARED_BY = {
    "amqp": "pyamqp.heartbeat",
    "kombu.connection": "kombu.heartbeat",
    "pika": "pika.heartbeat",
    "aiormq": "aiormq.heartbeat",
    "proton._handlers": "proton.heartbeat",
    "rabbitmq_amqp_python_client.qpid.proton._handlers": "proton.rabbitmq_client",
    "pyngus": "proton.pyngus",
    "eventlet.patcher": "eventlet",
}

#: A module whose classes an adapter prepares: a reload makes new ones, which are not prepared yet.
_PREPARED_AGAIN = {
    "amqp.connection": "amqp",
    "kombu.connection": "kombu.connection",
    "pika.connection": "pika",
    "aiormq.connection": "aiormq",
    "proton._handlers": "proton._handlers",
}

#: The adapter that keeps a connection of a library alive. py-amqp is first: the connection beneath
#: a ``kombu.Connection`` is of a class of kombu's that is derived from py-amqp's.
_KEPT_ALIVE_BY = {
    "amqp": "pyamqp.heartbeat",
    "kombu": "kombu.heartbeat",
    "pika": "pika.heartbeat",
    "aio_pika": "aiormq.aio_pika",
    "aiormq": "aiormq.heartbeat",
    "proton": "proton.heartbeat",
    "rabbitmq_amqp_python_client": "proton.heartbeat",
}


def _prepare(module: str) -> None:
    """Prepare a library; idempotent, in several threads at once, too."""
    try:
        adapter = importlib.import_module(f"hbshim.adapters.{_PREPARED_BY[module]}")
        adapter.prepare(connection_options)
    except Exception as error:
        # Another thread may import the adapter, and wait for the library, whose import in turn
        # waits here. Python then returns the part of the adapter that there is.
        if not hand_over(functools.partial(_prepare, module)):
            _report_unprepared(module, error)


def _report_unprepared(module: str, error: Exception) -> None:
    """Let the import succeed, and report that the library's connections are not kept alive."""
    from hbshim.event_log import log_problems
    from hbshim.heartbeat import service

    metrics = service.current().metrics
    detail = (
        f"{module} is not prepared ({type(error).__name__}: {error}); it works as without hbshim"
    )
    metrics.record("not-kept-alive", module.partition(".")[0], detail)
    log_problems(metrics)


def uninstall() -> None:
    """Leave connections that are opened from now on unchanged; others stay kept alive.

    The native pollers that install() has removed are restored.
    """
    global _installed
    _installed = None
    if "hbshim.runtime.polling" in sys.modules:
        from hbshim.runtime.polling import restore_polling

        restore_polling(on_install=True)


def installed_options() -> Mapping[str, Any] | None:
    """Return the keywords of the install() in force; None while not installed."""
    return _installed


def connection_options(url: Mapping[str, object]) -> Options | None:
    """Return the options for a connection that is being opened; None while not installed.

    Parameters:
        url: the options in its URL.
    """
    installed = _installed  # once: another thread may call uninstall()
    if installed is None:
        return None
    from hbshim.options import Options

    return Options.load(url=url, **installed)


def keep_alive(connection: C, **options: Unpack[AttachOptions]) -> C:
    """Keep one connection alive that is open already.

    Parameters:
        connection: an ``amqp.Connection``, a ``kombu.Connection`` (which stays kept alive when it
            reconnects), a ``pika.BlockingConnection``, any ``pika.connection.Connection`` on
            pika's own transport, an ``aiormq.Connection`` or an ``aio_pika.Connection`` (a robust
            one stays kept alive when it reconnects), a ``proton.utils.BlockingConnection`` or any
            ``proton.Connection`` of a ``proton.reactor.Container``, without TLS (they stay kept
            alive when the Container reconnects), or a connection of rabbitmq-amqp-python-client.
        options: see :class:`hbshim.Options`. They also apply to a connection that is kept alive
            already; `heartbeat` and `strip_polling` have no effect at this time.

    Returns:
        `connection`.

    Raises:
        AttachError: it is not open or has ended, is of an unknown type, or negotiated no heartbeat.
        OptionError: an option is not valid.
        UnsupportedVersionError: hbshim does not know this version of its library.
        WorkerError: the worker cannot run in this process.
    """
    from hbshim.errors import AttachError, OptionError
    from hbshim.options import Options

    late = [name for name in _BEFORE_CONNECT if options.get(name) is not None]
    if late:
        raise OptionError(
            f"{' and '.join(late)} cannot be given for a connection that is open already; "
            "give it to hbshim.install(), or ask the client library for a heartbeat"
        )
    loaded = Options.load(**options)
    attach = _adapter_of(connection)
    try:
        link = attach(connection, loaded)
    except OSError as error:
        # Its library has not noticed yet.
        raise AttachError(f"this connection has ended ({error}); open a new one") from error
    if link is None:
        raise AttachError(
            "this connection negotiated no heartbeat, so the broker never drops it and there "
            "is none to send; open it with heartbeat=60 to have one"
        )
    return connection


def _adapter_of(connection: Any) -> Callable[[Any, Options], Any]:
    kinds = _libraries_of(connection)
    # Only a library that is loaded can have made this connection.
    for library, name in _KEPT_ALIVE_BY.items():
        if library in kinds and library in sys.modules:
            adapter = importlib.import_module(f"hbshim.adapters.{name}")
            attach: Callable[[Any, Options], Any] = adapter.attach
            return attach
    from hbshim.errors import AttachError

    raise AttachError(
        f"hbshim does not know connections of type "
        f"{_name_of(type(connection))}; it keeps amqp.Connection, kombu.Connection, "
        "pika, aiormq, aio-pika and proton connections alive"
    )


def _name_of(kind: type) -> str:
    from hbshim.runtime.loaded import module_of

    return f"{module_of(kind)}.{kind.__qualname__}"


def _libraries_of(thing: Any) -> set[str]:
    from hbshim.runtime.loaded import module_of

    return {module_of(base).partition(".")[0] for base in type(thing).__mro__}
