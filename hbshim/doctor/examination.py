"""Gathers the context, then runs every check."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from typing import Any

from hbshim.adapters.celery.apps import apps_in_use, facts_of
from hbshim.api import installed_options
from hbshim.doctor import (
    checks_amqp1,
    checks_broker,
    checks_heartbeat,
    checks_kept_alive,
    checks_loops,
    checks_runtime,
    checks_versions,
    checks_zmq,
)
from hbshim.doctor.activity import activity_of
from hbshim.doctor.context import Context
from hbshim.doctor.deadline import Deadline
from hbshim.doctor.findings import Report, finding_of
from hbshim.doctor.other_clients import (
    loaded_known_clients,
    loaded_unknown_clients,
    transport_of_kombu,
)
from hbshim.doctor.peer import examine_peer
from hbshim.doctor.proposals import clients_in_use, loaded_clients, proposals
from hbshim.doctor.target import broker_target, is_amqp1_url, is_zmq_url
from hbshim.errors import OptionError
from hbshim.heartbeat import service
from hbshim.observe.loops import loops
from hbshim.options import Options
from hbshim.runtime.detect import detect
from hbshim.runtime.loaded import peek

#: Every check, in the order of the report and of docs/doctor.md.
CHECKS = (
    *checks_runtime.CHECKS,
    *checks_loops.CHECKS,
    *checks_versions.CHECKS,
    *checks_kept_alive.CHECKS,
    *checks_heartbeat.CHECKS,
    *checks_broker.CHECKS,
    *checks_amqp1.CHECKS,
    *checks_zmq.CHECKS,
)

#: Seconds for everything that uses the broker.
TIMEOUT = 15.0
#: T that the doctor's connection requests, in seconds; short, so that heartbeats arrive soon.
HEARTBEAT = 4

#: Extras without a library whose connections hbshim knows.
_OTHER_EXTRAS = ("cli", "coverage", "docs", "test", "zmq")
#: A line of hbshim's own metadata: a library, the range of its versions, and the extra.
_REQUIREMENT = re.compile(
    r"([\w.-]+)(?:\[.*?\])?\s*\(?([^;()]*)\)?\s*;.*\bextra\s*==\s*[\"']([\w.-]+)"
)
_PYTHON_CLASSIFIER = "Programming Language :: Python :: "


def examine(
    url: str | None = None,
    *,
    idle_limit: float | None = None,
    ca: str | None = None,
    management: str | None = None,
    client: str | None = None,
    app: Any = None,
    heartbeat: int = HEARTBEAT,
    timeout: float = TIMEOUT,
    progress: Callable[[str], None] = lambda sentence: None,
    **options: Any,
) -> Report:
    """Examine this process and, with a URL, a broker or the hosts of the driver over ZeroMQ.

    Call it inside the program itself.

    Without a URL it imports no library, opens no connection, and takes some milliseconds. With a
    URL it opens a connection of its own and closes it.

    Parameters:
        url: the broker's, or of the driver over AMQP 1.0 or ZeroMQ; its query may hold hbshim's
            options. It appears in no report and no message.
        idle_limit: seconds after which a load balancer or firewall drops a silent connection.
        ca: PEM file of the authority to trust, for ``amqps://``.
        management: URL of RabbitMQ's management API; without a login in it, the broker's is used.
        client: the library that the program uses, "amqp" (kombu, Celery) or "pika"; by default
            those that are loaded, else those that are installed.
        app: the program's Celery app; by default those of this process that have read their
            configuration.
        heartbeat: T to request on the doctor's connection, in seconds.
        timeout: seconds for everything that uses the broker.
        progress: called with a sentence before each step that takes seconds.
        options: see :class:`hbshim.Options`; they take precedence over those that hbshim was
            installed with in this process.

    Raises:
        AttachError: `app` is not a Celery app, or its broker's URL cannot be used.
        OptionError: an option, a URL or the file `ca` is not valid.
        MissingExtraError: a URL was given and no client library is installed.
    """
    _check_arguments(url, ca=ca, management=management, heartbeat=heartbeat, timeout=timeout)
    target = None if url is None or is_zmq_url(url) or is_amqp1_url(url) else broker_target(url)
    installed = installed_options()
    # A messaging driver takes its options only from its URL, the environment and the file.
    base = {} if installed is None or (target is not None and target.driver) else dict(installed)
    base.update((name, value) for name, value in options.items() if value is not None)
    loaded = Options.load(url=None if target is None else target.options, **base)
    client = client or (None if target is None else target.client)
    # Before the probe below, which loads a client library and records events of its own.
    process = _of_process(loaded, client=client, app=app, installed=installed is not None)
    ranges = _supported()
    peer = examine_peer(
        url,
        target,
        ca=ca,
        management=management,
        client=client,
        heartbeat=heartbeat,
        deadline=Deadline(timeout),
        progress=progress,
        options=loaded,
        worker=process.runtime.choice.worker,
    )
    patched = process.runtime.green.library != "none"
    context = replace(
        process,
        installed=_versions(ranges),
        ranges=ranges,
        pythons=_pythons(),
        tls=process.tls or peer.tls or (target is not None and target.tls),
        proposals=proposals(
            target,
            loaded,
            process.clients,
            [(each, Options.load(url=each.options, **base)) for each in process.apps],
        ),
        kombu_transport=transport_of_kombu(target, process.apps, patched=patched),
        idle_limit=idle_limit,
        probe=peer.probe,
        broker_error=peer.broker_error,
        queues=peer.queues,
        zmq=peer.zmq,
        amqp1=peer.amqp1,
    )
    findings = tuple(finding_of(check, context) for check in CHECKS)
    return Report(findings, unreachable=peer.unreachable)


def _check_arguments(
    url: str | None, *, ca: str | None, management: str | None, heartbeat: int, timeout: float
) -> None:
    """Refuse arguments that contradict each other, or the URL.

    Raises:
        OptionError: they do.
    """
    if (management or ca) and url is None:
        raise OptionError("--management and --ca belong to a broker; name it with --url")
    over_zmq = url is not None and is_zmq_url(url)
    if heartbeat > timeout and not over_zmq:
        raise OptionError(
            f"at T = {heartbeat} s heartbeats arrive within {heartbeat} s, longer than the timeout "
            f"of {timeout:g} s; give a longer --timeout or a shorter --heartbeat"
        )
    if over_zmq and (management or ca):
        raise OptionError("--management and --ca belong to a broker, and hbzmq:// has none")
    if url is not None and is_amqp1_url(url) and management:
        raise OptionError(
            "--management examines queues for clients of AMQP 0-9-1; name the broker with amqp://"
        )


def _of_process(options: Options, *, client: str | None, app: Any, installed: bool) -> Context:
    """Return what this process shows without a connection to anything.

    Parameters:
        options: hbshim's.
        client: the library that the program uses; None if only the modules show it.
        app: the program's Celery app; None for those that have read their configuration.
        installed: hbshim is installed in this process.

    Raises:
        AttachError: `app` is not a Celery app, or its broker's URL cannot be used.
    """
    # An examination must not create the service: see service.existing().
    running = service.existing()
    links = [] if running is None else running.links()
    loaded = (*loaded_clients(), *loaded_known_clients())
    return Context(
        runtime=detect(
            options.heartbeat_in_pthread,
            options.forced_worker,
            running is not None and running.worker_late(),
        ),
        tls=any(link.wire.route == "tls" for link in links),
        activity=activity_of(running, len(links), installed=installed, loaded=loaded),
        clients=clients_in_use(client),
        apps=tuple(apps_in_use() if app is None else [facts_of(app)]),
        other_clients=loaded_unknown_clients(),
        live=tuple(link.timeout for link in links),
        loops=tuple(loops()),
    )


def _supported() -> dict[str, str]:
    """Return the versions that hbshim's extras require, by library."""
    try:
        lines = metadata.requires("hbshim") or ()
    except metadata.PackageNotFoundError:
        return {}
    read = filter(None, map(_REQUIREMENT.match, lines))
    return {
        name: range_
        for name, range_, extra in (each.groups() for each in read)
        if extra not in _OTHER_EXTRAS
    }


def _pythons() -> tuple[str, ...]:
    try:
        classifiers = metadata.metadata("hbshim").get_all("Classifier") or ()
    except metadata.PackageNotFoundError:
        return ()
    versions = [line.removeprefix(_PYTHON_CLASSIFIER) for line in classifiers]
    return tuple(version for version in versions if version.startswith("3."))


def _versions(names: dict[str, str]) -> dict[str, str]:
    """Return the versions of libraries: of loaded modules, which may not be the installed ones."""
    found = {}
    for name in names:
        version = peek(name, "__version__")
        if version is None:
            try:
                version = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
        found[name] = str(version)
    return found
