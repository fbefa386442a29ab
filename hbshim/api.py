"""What an application calls: install, uninstall, keep_alive."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from hbshim.errors import AttachError
from hbshim.options import Options

#: Keywords of the last install(); None while not installed. Connections are
#: opened by code that knows nothing of hbshim, so this has to be module state.
_installed: dict[str, Any] | None = None
_hooked = False


def install(
    app: Any = None, /, *, config: Mapping[str, object] | None = None, **options: Any
) -> None:
    """Keep alive every py-amqp, kombu and pika connection that is opened from now on.

    Imports none of these libraries: each is prepared when the program imports it,
    or at once if it already has. Call it as early as you like, before or after
    ``monkey_patch()``. Calling it again replaces the options.

    Parameters:
        app: a Celery app, each of whose connections then asks for a heartbeat: those
            of its producer pool too, for which Celery itself asks for none. They ask
            for the option `heartbeat`, or else for the app's ``broker_heartbeat``.
        config: options from the application's own configuration, by name; the
            environment, URLs and keywords win over them.
        options: see :class:`hbshim.Options`; they win over everything else.

    Raises:
        AttachError: `app` is no Celery app.
        OptionError: an option is not acceptable.
        UnsupportedVersionError: Celery is of a version hbshim does not know.
    """
    global _installed, _hooked
    loaded = Options.load(config=config, **options)
    if app is not None:
        _prepare_app(app)
    _installed = {"config": config, **options}
    if loaded.strip_polling:
        from hbshim.runtime.polling import strip_polling

        strip_polling()
    let_watch(loaded)
    if not _hooked:
        _hooked = True
        for module in _PREPARED_BY:
            _prepare_when_imported(module)


def _prepare_app(app: Any) -> None:
    # Only a library that is loaded can have made this app.
    if "celery" not in _libraries_of(app) or "celery" not in sys.modules:
        raise AttachError(
            f"hbshim.install() takes a Celery app before its keywords, not {type(app).__module__}."
            f"{type(app).__qualname__}; give it options by keyword or as config=, and a "
            "connection to hbshim.keep_alive()"
        )
    importlib.import_module("hbshim.adapters.celery").prepare_app(app, connection_options)


#: Which adapter prepares a library, once this module of it has been imported whole.
_PREPARED_BY = {
    "amqp": "amqp",
    "kombu.connection": "kombu",
    "pika": "pika",
    "eventlet.patcher": "eventlet",
}


def _prepare_when_imported(module: str) -> None:
    import wrapt

    wrapt.register_post_import_hook(functools.partial(_prepare, module), module)


def _prepare(module: str, _imported: object) -> None:
    adapter = f"hbshim.adapters.{_PREPARED_BY[module]}"
    try:
        importlib.import_module(adapter).prepare(connection_options)
    except BaseException:
        # The program's import fails with this error. The hook is gone by now; without
        # another, a second try would import the library unprotected and in silence.
        sys.modules.pop(module, None)
        _prepare_when_imported(module)
        raise


def uninstall() -> None:
    """Leave connections opened from now on alone; those kept alive already stay so."""
    global _installed
    _installed = None


def installed_options() -> Mapping[str, Any] | None:
    """Return the keywords of the install() in force; None while not installed."""
    return _installed


def connection_options(url: Mapping[str, object]) -> Options | None:
    """The options for a connection being opened now; None while not installed.

    Parameters:
        url: options that its URL holds.
    """
    if _installed is None:
        return None
    loaded = Options.load(url=url, **_installed)
    let_watch(loaded)
    return loaded


def let_watch(options: Options) -> None:
    """Open the watch socket that the options ask for, unless it is open already."""
    # At each connection: a forked worker's first may be the first we hear of it.
    if options.watch_socket != "off":
        from hbshim.observe.listening import offer

        offer(options.watch_socket)


def keep_alive(connection: Any, **options: Any) -> Any:
    """Keep one connection alive that is open already.

    Parameters:
        connection: an ``amqp.Connection``, a ``kombu.Connection`` (which stays
            kept alive when it reconnects), a ``pika.BlockingConnection`` or any
            ``pika.connection.Connection`` on pika's own transport.
        options: see :class:`hbshim.Options`.

    Returns:
        `connection`.

    Raises:
        AttachError: it is not open, of an unknown kind, or negotiated no heartbeat.
        OptionError: an option is not acceptable.
        UnsupportedVersionError: its library is of a version hbshim does not know.
        WorkerError: the worker cannot run in this process.
    """
    loaded = Options.load(**options)
    let_watch(loaded)
    attach = _adapter_of(connection)
    if attach(connection, loaded) is None:
        raise AttachError(
            "this connection negotiated no heartbeat, so the broker never drops it and there "
            "is none to send; open it with heartbeat=60 (kombu, py-amqp, pika) to have one"
        )
    return connection


def _adapter_of(connection: Any) -> Callable[[Any, Options], Any]:
    kinds = _libraries_of(connection)
    # Only a library that is loaded can have made this connection.
    for library in ("kombu", "amqp", "pika"):
        if library in kinds and library in sys.modules:
            adapter = importlib.import_module(f"hbshim.adapters.{library}")
            attach: Callable[[Any, Options], Any] = adapter.attach
            return attach
    raise AttachError(
        f"hbshim does not know connections of type {type(connection).__module__}."
        f"{type(connection).__qualname__}; it keeps amqp.Connection, kombu.Connection and "
        "pika connections alive"
    )


def _libraries_of(thing: Any) -> set[str]:
    return {base.__module__.partition(".")[0] for base in type(thing).__mro__}
