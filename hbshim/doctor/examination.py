"""Gathers the context, then runs every check."""

from __future__ import annotations

import re
from collections.abc import Callable
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
from hbshim.doctor.amqp1_facts import Amqp1Facts
from hbshim.doctor.context import ConnectionProbe, Context, Queues
from hbshim.doctor.deadline import Deadline
from hbshim.doctor.findings import Report, finding_of
from hbshim.doctor.other_clients import loaded_unknown_clients, transport_of_kombu
from hbshim.doctor.proposals import clients_in_use, loaded_clients, proposals
from hbshim.doctor.target import broker_target, is_amqp1_url, is_zmq_url, management_target
from hbshim.doctor.zmq_facts import ZmqFacts
from hbshim.errors import BrokerError, OptionError
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
    if (management or ca) and url is None:
        raise OptionError("--management and --ca belong to a broker; name it with --url")
    over_zmq = url is not None and is_zmq_url(url)
    over_amqp1 = url is not None and is_amqp1_url(url)
    if heartbeat > timeout and not over_zmq:
        raise OptionError(
            f"at T = {heartbeat} s heartbeats arrive within {heartbeat} s, longer than the timeout "
            f"of {timeout:g} s; give a longer --timeout or a shorter --heartbeat"
        )
    if over_zmq and (management or ca):
        raise OptionError("--management and --ca belong to a broker, and hbzmq:// has none")
    if over_amqp1 and management:
        raise OptionError(
            "--management examines queues for clients of AMQP 0-9-1; name the broker with amqp://"
        )
    target = None if url is None or over_zmq or over_amqp1 else broker_target(url)
    installed = installed_options()
    # A messaging driver takes its options only from its URL, the environment and the file.
    base = {} if installed is None or (target is not None and target.driver) else dict(installed)
    base.update((name, value) for name, value in options.items() if value is not None)
    loaded = Options.load(url=None if target is None else target.options, **base)
    client = client or (None if target is None else target.client)
    # Before the probe below, which loads a client library and records events of its own.
    running, clients = service.existing(), clients_in_use(client)
    links = [] if running is None else running.links()
    activity = activity_of(
        running, len(links), installed=installed is not None, loaded=loaded_clients()
    )
    unknown_clients, loops_here = loaded_unknown_clients(), tuple(loops())
    apps = tuple(apps_in_use() if app is None else [facts_of(app)])
    # An examination must not create the service: see service.existing().
    runtime = detect(
        loaded.heartbeat_in_pthread,
        loaded.forced_worker,
        running is not None and running.worker_late(),
    )
    ranges = _supported()
    probe: ConnectionProbe | None = None
    broker_error: tuple[str, str] | None = None
    queues: Queues | tuple[str, str] | None = None
    if target is not None:
        # Imported only now: it needs `ssl`.
        from hbshim.doctor.broker_probe import probe as pay_visit
        from hbshim.doctor.broker_probe import tls_context

        api = None if management is None else management_target(management, target)
        needs_tls = target.tls or (api is not None and api.tls)
        tls = tls_context(ca, target) if needs_tls else None
        deadline = Deadline(timeout)
        progress(f"connecting to {target.name} to wait for a heartbeat in each direction ...")
        try:
            probe = pay_visit(
                target,
                tls=tls if target.tls else None,
                client=client,
                heartbeat=heartbeat,
                deadline=deadline,
                options=loaded,
                worker=runtime.choice.worker,
            )
        except BrokerError as error:
            broker_error = _sentences(error)
        if api is not None:
            from hbshim.doctor.management import list_queues

            try:
                queues = list_queues(api, tls if api.tls else None, deadline)
            except BrokerError as error:
                queues = _sentences(error)
    facts: ZmqFacts | None = None
    if url is not None and over_zmq:
        from hbshim.doctor.zmq_examination import examine_zmq

        facts = examine_zmq(url, Deadline(timeout), progress)
    amqp1: Amqp1Facts | None = None
    if url is not None and over_amqp1:
        # Imported only now: it needs `ssl`, and the driver.
        from hbshim.doctor.amqp1_probe import examine_amqp1

        amqp1 = examine_amqp1(
            url,
            ca=ca,
            heartbeat=heartbeat,
            deadline=Deadline(timeout),
            progress=progress,
            worker=runtime.choice.worker,
        )
    context = Context(
        runtime=runtime,
        installed=_versions(ranges),
        ranges=ranges,
        pythons=_pythons(),
        tls=(target is not None and target.tls)
        or (amqp1 is not None and amqp1.encrypted)
        or any(it.wire.route == "tls" for it in links),
        activity=activity,
        clients=clients,
        proposals=proposals(
            target,
            loaded,
            clients,
            [(each, Options.load(url=each.options, **base)) for each in apps],
        ),
        apps=apps,
        kombu_transport=transport_of_kombu(target, apps, patched=runtime.green.library != "none"),
        other_clients=unknown_clients,
        live=tuple(link.timeout for link in links),
        idle_limit=idle_limit,
        probe=probe,
        broker_error=broker_error,
        queues=queues,
        loops=loops_here,
        zmq=facts,
        amqp1=amqp1,
    )
    return Report(
        tuple(finding_of(check, context) for check in CHECKS),
        unreachable=broker_error is not None
        or isinstance(queues, tuple)
        or (facts is not None and facts.unreachable)
        or (amqp1 is not None and amqp1.error is not None),
    )


def _sentences(error: BrokerError) -> tuple[str, str]:
    return f"{error.sentence}.", f"{error.remedy[0].upper()}{error.remedy[1:]}."


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
