"""Connects to a peer of AMQP 1.0, waits for one heartbeat in each direction, and closes.

One deadline limits everything. The driver's own code opens the connection, so that what the doctor
finds is what the driver finds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from hbshim.amqp1.idle import idle_times
from hbshim.doctor.amqp1_facts import Amqp1Facts
from hbshim.doctor.amqp1_greeting import mechanisms_of
from hbshim.doctor.broker_probe import (
    CLOSE_TIMEOUT,
    WATCH_PERIODS,
    Heartbeats,
    await_heartbeats,
)
from hbshim.doctor.deadline import Deadline
from hbshim.doctor.failures import Failure, explain
from hbshim.doctor.target import AMQP1_TLS_SCHEME, Target
from hbshim.errors import ConnectError, OptionError

if TYPE_CHECKING:
    from hbshim.messaging.amqp1.connection import Connection
    from hbshim.messaging.amqp1.options import Amqp1Options
    from hbshim.messaging.hosts import Host


def examine_amqp1(
    url: str,
    *,
    ca: str | None,
    heartbeat: int,
    deadline: Deadline,
    progress: Callable[[str], None],
    worker: str,
) -> Amqp1Facts:
    """Find out what the checks need, about the first host of a URL.

    Parameters:
        url: of `hbamqp://` or `hbamqps://`.
        ca: PEM file of the authority to trust.
        heartbeat: the idle-time-out to advertise, in seconds; short, so that the peer's heartbeats
            arrive soon.
        deadline: limits everything.
        progress: called with a sentence before each step that takes seconds.
        worker: the worker that follows from hbshim's options, for the report.

    Raises:
        OptionError: the URL or an option of the driver is not valid.
    """
    from hbshim.messaging.amqp1.factory import PLAIN, TLS
    from hbshim.messaging.amqp1.options import Amqp1Options
    from hbshim.messaging.hosts import read_hosts

    scheme = url.partition("://")[0]
    factory = TLS if scheme == AMQP1_TLS_SCHEME else PLAIN
    options = Amqp1Options.load(url=url)
    if factory.secure:
        options = dataclasses.replace(options, ssl=True)
    if ca is not None:
        if not options.ssl:
            raise OptionError("--ca belongs to a connection over TLS; write hbamqps:// in the URL")
        options = dataclasses.replace(options, ssl_ca_file=ca)
    host = read_hosts(url, factory.default_port(options))[0]
    target = _target(host, options, scheme)
    facts = Amqp1Facts(
        scheme,
        host.name,
        login_methods=options.login_methods,
        encrypted=options.ssl,
        own_idle=options.heartbeat_interval,
        asked=heartbeat,
        worker=worker,
    )
    progress(f"connecting to {host.name} to wait for a heartbeat in each direction ...")
    return _examine(facts, host, target, options, heartbeat, deadline)


def _target(host: Host, options: Amqp1Options, scheme: str) -> Target:
    from hbshim.messaging.amqp.login import login_at

    login = login_at(host)
    return Target(
        host=host.hostname,
        port=host.port,
        tls=options.ssl,
        user=login.username,
        password=login.password,
        vhost=login.virtual_host,
        scheme=scheme,
    )


def _examine(
    facts: Amqp1Facts,
    host: Host,
    target: Target,
    options: Amqp1Options,
    heartbeat: int,
    deadline: Deadline,
) -> Amqp1Facts:
    from hbshim.messaging.amqp1.logins import login_of
    from hbshim.messaging.amqp1.opening import open_connection
    from hbshim.messaging.dialing import dial

    options = dataclasses.replace(options, heartbeat_interval=heartbeat)
    try:
        sock = dial(host, options, time.monotonic() + deadline.left)
        with contextlib.closing(sock):
            login = login_of(host, options, sock)
            greeting = mechanisms_of(sock, target, deadline)
        if isinstance(greeting, Failure):
            return dataclasses.replace(facts, error=_sentences(greeting, target))
        facts = dataclasses.replace(
            facts,
            mechanisms=greeting,
            login_methods=login.names,
            withheld=not {*login.names} & {*greeting} and bool({*login.withheld} & {*greeting}),
        )
        connection = open_connection(host, options, time.monotonic() + deadline.left)
    except ConnectError as error:
        return dataclasses.replace(facts, error=_explained(error, target, deadline))
    try:
        return _watch(_agreed(facts, connection, target), connection, deadline)
    finally:
        with contextlib.suppress(Exception):
            connection.close(min(CLOSE_TIMEOUT, deadline.left))


def _explained(error: ConnectError, target: Target, deadline: Deadline) -> tuple[str, str]:
    if isinstance(error.__cause__, OSError):
        failure = explain(error.__cause__, target, deadline.seconds, not deadline.left, None)
        if not failure.spoken:
            return _sentences(failure, target)
    # The driver's errors hold no credentials, and end with what to do.
    text = "".join(char if char.isprintable() else "?" for char in str(error))
    sentence, _, remedy = text.rpartition("; ")
    return _capital(f"{sentence or remedy}."), _capital(remedy)


def _sentences(failure: Failure, target: Target) -> tuple[str, str]:
    return f"Cannot connect to {target.name}: {failure.sentence}.", f"{_capital(failure.remedy)}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _agreed(facts: Amqp1Facts, connection: Connection, target: Target) -> Amqp1Facts:
    remote = connection.opened.remote
    properties = {str(key): value for key, value in (remote.properties or {}).items()}
    idle = remote.idle_time_out
    return dataclasses.replace(
        facts,
        product=target.clean(properties.get("product") or "an unnamed peer"),
        version=target.clean(properties.get("version") or "(version unknown)"),
        profile=connection.profile.name,
        peer_idle=idle_times(None, idle).timeout,
        timeout=idle_times(facts.own_idle * 1000, idle).timeout,
    )


def _watch(facts: Amqp1Facts, connection: Connection, deadline: Deadline) -> Amqp1Facts:
    began = time.monotonic()
    heartbeats = Heartbeats()
    link = connection.link
    if link is None:
        heartbeats.error_text = (
            "hbshim cannot keep this connection alive; the events have the reason"
        )
    else:
        # Early, where the peer wants heartbeats rarely only.
        link.timeout = min(link.timeout, facts.asked)
        until = began + min(WATCH_PERIODS * facts.asked, max(0.0, deadline.left - CLOSE_TIMEOUT))
        heartbeats = await_heartbeats(link, began, until)
    return dataclasses.replace(
        facts,
        route="plain" if link is None else link.wire.route,
        watched=time.monotonic() - began,
        sent_after=heartbeats.sent_after,
        received_after=heartbeats.received_after,
        error_text=heartbeats.error_text,
    )
