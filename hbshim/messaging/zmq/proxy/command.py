"""``hbshim zmq-proxy``."""

from __future__ import annotations

import configparser
import contextlib
import dataclasses
import functools
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from hbshim.errors import HbshimError, OptionError
from hbshim.extras import needs
from hbshim.messaging.zmq.frames import NAME_LIMIT
from hbshim.messaging.zmq.options import ZmqOptions
from hbshim.messaging.zmq.settings import REFUSED, WAITING

if TYPE_CHECKING:
    from hbshim.messaging.zmq.directory import Directory
    from hbshim.messaging.zmq.loop import Loop
    from hbshim.messaging.zmq.proxy.access import Access
    from hbshim.messaging.zmq.proxy.endpoints import ProcessName, ProxySettings, Server

#: Options of the command that are options of the driver, too, with their names there.
_DRIVER_OPTIONS = {
    "call_port": "zmq_call_port",
    "cast_port": "zmq_cast_port",
    "fanout_port": "zmq_fanout_port",
    "notify_port": "zmq_notify_port",
    "directory": "fanout_ds_address",
    "ipc_dir": "rpc_zmq_ipc_dir",
    "ipc_group": "zmq_ipc_group",
    "secret_key_file": "zmq_curve_secret_key_file",
    "allowed_keys": "zmq_curve_allowed_keys",
    "host": "rpc_zmq_host",
    "bind": "rpc_zmq_bind_address",
}

#: Seconds for the last withdrawal, which the directory may have missed when it was announced.
_WITHDRAW_WITHIN = 2.0


@click.command("zmq-proxy", short_help="Forward messages over ZeroMQ to the servers of this host.")
@click.option("--host", help="Name of this host in the directory. See rpc_zmq_host.")
@click.option("--bind", help="Address to listen at. See rpc_zmq_bind_address.")
@click.option("--call-port", help="Port for calls. See zmq_call_port.")
@click.option("--cast-port", help="Port for casts to one server. See zmq_cast_port.")
@click.option("--fanout-port", help="Port for casts to a fanout. See zmq_fanout_port.")
@click.option("--notify-port", help="Port for notifications. See zmq_notify_port.")
@click.option("--directory", help="Where the host is registered. See fanout_ds_address.")
@click.option("--ipc-dir", help="Directory of the local sockets. See rpc_zmq_ipc_dir.")
@click.option("--ipc-group", help="Group whose users may enter it. See zmq_ipc_group.")
@click.option("--secret-key-file", help="Turns CURVE on. See zmq_curve_secret_key_file.")
@click.option("--allowed-keys", help="Of clients, with CURVE. See zmq_curve_allowed_keys.")
@click.option(
    "--grace",
    type=click.FloatRange(0, 86400),
    default=30.0,
    show_default=True,
    help="Seconds for calls that still run when it stops.",
)
@click.option("--status", is_flag=True, help="Print the figures of the proxy that runs here.")
@click.option("--json", "as_json", is_flag=True, help="With --status: as JSON.")
@click.option(
    "--config-file",
    type=click.Path(exists=True, dir_okay=False),
    help="A file of oslo.messaging: [oslo_messaging_zmq], [matchmaker_redis], [zmq_proxy_opts].",
)
@click.option(
    "--process",
    type=click.Choice(["requests", "fanout", "notify"]),
    help="Run this one in the foreground, for a supervisor of your own.",
)
@click.option("--supervised", is_flag=True, hidden=True)
@click.option("--embedded-in", type=int, hidden=True, help="The process that it stops with.")
def zmq_proxy(
    grace: float,
    status: bool,
    as_json: bool,
    config_file: str | None,
    process: ProcessName | None,
    supervised: bool,
    embedded_in: int | None,
    **given: str | None,
) -> None:
    """Receive messages for the servers of this host, and forward them.

    One runs on each host that has servers. It has three processes: one for calls and casts, one
    for casts to a fanout, one for notifications. One that dies is started again. It stops at
    SIGTERM: waiting messages are handed out, and replies are forwarded, for as long as --grace
    allows. A second SIGTERM ends it at once.

    Options that are not given come from HBSHIM_ZMQ_... variables, or from the section
    hbshim_zmq of the file that HBSHIM_CONFIG names.

    --status ends with status 1 if one of the processes does not answer: a health check.
    """
    with needs(("zmq",), "zmq"):
        from hbshim.messaging.zmq.proxy.endpoints import ProxySettings

    values: dict[str, Any] = {_DRIVER_OPTIONS[key]: value for key, value in given.items()}
    configured = None if config_file is None else _options_of(config_file)
    options = ZmqOptions.load(config=configured, **values)
    name = options.rpc_zmq_host or socket.gethostname()
    if len(name.encode()) > NAME_LIMIT:
        raise OptionError(f"rpc_zmq_host={name!r} has more than {NAME_LIMIT} bytes")
    settings = ProxySettings(
        name,
        options.rpc_zmq_bind_address,
        options.rpc_zmq_ipc_dir,
        options.socket_settings(),
        options.ports(),
        options.rpc_zmq_topic_backlog,
        copies_lifetime=options.rpc_message_ttl,
        ipc_group=options.ipc_group(),
    )
    if status:
        # Without the key, which the user of a health check need not be able to read.
        _print_status(settings, as_json)
        return
    settings = _with_keys(settings, options, warn=not supervised)
    if process is None:
        with _refusals_reported(embedded_in is not None):
            _supervise(settings, configured or {}, values, grace, embedded_in)
    else:
        _run(process, settings, options, grace, supervised=supervised)


def _options_of(config_file: str) -> dict[str, object]:
    """Return the options of this driver that a file of oslo.messaging makes.

    Raises:
        OptionError: it cannot be read, or a value in it cannot be used.
    """
    from hbshim.messaging.zmq import legacy

    parser = configparser.ConfigParser(interpolation=None, default_section="", strict=False)
    try:
        parser.read(config_file, encoding="utf-8")
    except (OSError, ValueError, configparser.Error) as error:
        raise OptionError(
            f"--config-file {config_file}: it cannot be read ({type(error).__name__})"
        ) from None
    sections = {name: dict(parser[name]) for name in parser.sections()}
    for warning in legacy.warnings(sections):
        click.echo(f"hbshim zmq-proxy: {warning}", err=True)
    return legacy.driver_options(sections)


def _with_keys(settings: ProxySettings, options: ZmqOptions, *, warn: bool) -> ProxySettings:
    """Return the settings with what CURVE needs, where it is on.

    Raises:
        OptionError: the key cannot be used, or nothing names the clients that may connect.
    """
    secret = options.secret_key()
    if secret is None:
        return settings
    allowed = options.zmq_curve_allowed_keys
    if allowed is None:
        raise OptionError(
            "zmq_curve_secret_key_file turns CURVE on, and nothing names the clients that may "
            "connect; name a file of their public keys, zmq_curve_allowed_keys, or * for any "
            "client with a key pair"
        )
    warnings = []
    if allowed == "*":
        warnings.append("zmq_curve_allowed_keys=*: every client with a key pair may connect")
    address = options.fanout_ds_address
    if address is not None and address.weakness:
        warnings.append(
            f"{address.name} has the public key of this proxy, and {address.weakness}: anyone "
            "who reaches it can replace the key; pin it at the clients, zmq_curve_server_keys"
        )
    for warning in warnings if warn else ():
        click.echo(f"hbshim zmq-proxy: {warning}", err=True)
    sockets = dataclasses.replace(settings.sockets, secret_key=secret)
    return dataclasses.replace(settings, sockets=sockets, allowed_keys=allowed)


def _print_status(settings: ProxySettings, as_json: bool) -> None:
    from hbshim.messaging.zmq.proxy.control import ask

    found = ask(settings.ipc_directory)
    if as_json:
        click.echo(json.dumps(found, indent=2, sort_keys=True))
    for name, figures in () if as_json else found.items():
        if figures is None:
            click.echo(f"{name}: no answer")
            continue
        click.echo(f"{name}:")
        for figure, value in sorted(figures.items()):
            click.echo(f"  {figure.replace('_', ' ')}: {round(value, 3)}")
    if None in found.values():
        sys.exit(1)


def _supervise(
    settings: ProxySettings,
    configured: Mapping[str, object],
    values: Mapping[str, Any],
    grace: float,
    embedded_in: int | None,
) -> None:
    from hbshim.messaging.zmq.local_sockets import open_ipc_directory
    from hbshim.messaging.zmq.proxy.process import stop_with_parent, take_lock
    from hbshim.messaging.zmq.proxy.supervisor import Supervisor, command_of_this_program

    on_wait = None
    if embedded_in is not None:
        # Ctrl-C is for the process that has it.
        os.setsid()
        stop_with_parent(embedded_in)
        on_wait = functools.partial(click.echo, WAITING)
    folder = open_ipc_directory(settings.ipc_directory, settings.ipc_group)
    # Held until this process ends. One that is embedded takes over from the one that runs.
    take_lock(folder, "proxy", settings.ipc_directory, on_wait)
    os.close(folder)
    # By variables, and not by the command line, which every user can read: the directory's
    # address may have a password.
    environment = dict(os.environ)
    environment.pop("NOTIFY_SOCKET", None)  # the supervisor's
    for name, value in configured.items():
        environment.setdefault(_variable(name), str(value))
    for name, value in values.items():
        if value is not None:
            environment[_variable(name)] = str(value)

    def report(line: str) -> None:
        click.echo(f"hbshim zmq-proxy: {line}", err=True)

    command = [*command_of_this_program(), "--grace", f"{grace:g}"]
    ready = functools.partial(_report_ready, settings)
    Supervisor(command, environment, grace, report).run(ready)


def _report_ready(settings: ProxySettings, description: str) -> None:
    """Report that the proxy listens, on standard output and to systemd."""
    from hbshim.messaging.zmq.proxy.supervisor import notify_systemd

    click.echo(f"hbshim zmq-proxy: ready: host {settings.host}, {description}")
    if address := os.environ.pop("NOTIFY_SOCKET", ""):
        notify_systemd(address)


def _variable(option: str) -> str:
    return f"{ZmqOptions.environment_prefix}{option.upper()}"


def _run(
    process: ProcessName,
    settings: ProxySettings,
    options: ZmqOptions,
    grace: float,
    *,
    supervised: bool,
) -> None:
    from hbshim.messaging.zmq.proxy.process import end_with_parent, run

    def ready(description: str) -> None:
        if supervised:
            click.echo(description)
        else:
            _report_ready(settings, description)

    directory = None
    with _refusals_reported(supervised):
        try:
            if supervised:
                end_with_parent()
            if process == "requests":
                directory = _open_directory(options)
            run(
                process,
                lambda loop, access: _make(process, loop, settings, directory, access),
                settings,
                grace,
                ready,
            )
            if directory is not None:
                directory.withdraw(settings.host, None, time.monotonic() + _WITHDRAW_WITHIN)
        finally:
            if directory is not None:
                directory.close()


@contextlib.contextmanager
def _refusals_reported(reported: bool) -> Iterator[None]:
    """End with one line on standard output in place of an error, for the process that reads it."""
    try:
        yield
    except HbshimError as error:
        if not reported:
            raise
        click.echo(f"{REFUSED}{error}")
        sys.exit(2)


def _open_directory(options: ZmqOptions) -> Directory | None:
    from hbshim.messaging.zmq.directory.factory import open_directory

    address = options.fanout_ds_address
    return None if address is None else open_directory(address, options.directory_settings())


def _make(
    process: ProcessName,
    loop: Loop,
    settings: ProxySettings,
    directory: Directory | None,
    access: Access | None,
) -> Server:
    from hbshim.heartbeat import service
    from hbshim.messaging.zmq.proxy.pubsub import PubSubProxy
    from hbshim.messaging.zmq.proxy.requests import RequestProxy

    if process == "requests":
        return RequestProxy(loop, settings, directory, service.current().metrics, access)
    return PubSubProxy(loop, process, settings, access)
