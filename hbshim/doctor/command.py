"""``hbshim doctor``, and ``python -m hbshim.doctor``."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import warnings
from typing import Any, NoReturn

import click

from hbshim.doctor.examination import HEARTBEAT, TIMEOUT, examine
from hbshim.errors import HbshimError, OptionError
from hbshim.messaging.hybrid.phases import NAMES

URL_VARIABLE = "HBSHIM_BROKER_URL"
NOTIFICATIONS_VARIABLE = "HBSHIM_NOTIFICATIONS_URL"

#: As in phase_gate.py, which is imported when it is needed.
INTERVAL = 12.0

#: Checks that find what was named out of reach.
_REACHING = (
    "connection",
    "amqp1-connection",
    "queue-kinds",
    "zmq-directory",
    "zmq-proxies",
    "zmq-stale-hosts",
)


@click.command(
    short_help="Find what keeps heartbeats from working here, with remedies.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--url",
    envvar=URL_VARIABLE,
    help=f"Connect and wait for heartbeats; also from {URL_VARIABLE}, which `ps` does not show.",
)
@click.option("--ca", metavar="FILE", help="PEM file of the authority to trust, for amqps://.")
@click.option("--management", metavar="URL", help="RabbitMQ's management API, to list queues.")
@click.option(
    "--idle-limit",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Silence after which a load balancer or firewall drops a connection.",
)
@click.option(
    "--client",
    type=click.Choice(["amqp", "pika"]),
    help="The library that the program uses (kombu and Celery: amqp); connect with it.",
)
@click.option(
    "--app",
    metavar="MODULE:NAME",
    help="The program's Celery app; its module is imported.",
)
@click.option(
    "--heartbeat",
    type=click.IntRange(1, 65535),
    default=HEARTBEAT,
    show_default=True,
    metavar="SECONDS",
    help="T to request on the doctor's connection; short, so that heartbeats arrive soon.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=1, max=3600),
    default=TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="Limit for all that is done with the broker together.",
)
@click.option("--heartbeat-in-pthread", metavar="true|false|auto", help="See hbshim options.")
@click.option("--worker", metavar="auto|pthread|greenthread|tpool", help="Force one worker.")
@click.option(
    "--phase",
    type=click.Choice(NAMES),
    help="Evaluate the gate out of this phase of a migration; --url names the router.",
)
@click.option("--back", is_flag=True, help="With --phase: the gate to the phase before.")
@click.option(
    "--notifications",
    metavar="URL",
    envvar=NOTIFICATIONS_VARIABLE,
    help=f"With --phase: RabbitMQ; also from {NOTIFICATIONS_VARIABLE}.",
)
@click.option(
    "--interval",
    type=click.FloatRange(min=0, max=3600),
    default=INTERVAL,
    show_default=True,
    metavar="SECONDS",
    help="With --phase: how long the senders are observed.",
)
@click.option("--all", "everything", is_flag=True, help="Show checks that do not apply, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.argument("surplus", nargs=-1, metavar="")
def doctor(
    url: str | None,
    ca: str | None,
    management: str | None,
    idle_limit: float | None,
    client: str | None,
    app: str | None,
    heartbeat: int,
    timeout: float,
    heartbeat_in_pthread: str | None,
    worker: str | None,
    phase: str | None,
    back: bool,
    notifications: str | None,
    interval: float,
    everything: bool,
    as_json: bool,
    surplus: tuple[str, ...],
) -> None:
    """Examine this process and, with --url, a broker or hosts of hbzmq://; explain each finding.

    Exit status: 0 nothing is wrong; 1 a warning or a problem was found; 2 bad input, or
    a broker that was named is out of reach. Passwords are never printed.
    Inside a program call hbshim.doctor.examine(), which sees its patches and its host.
    """
    if surplus:
        # click would repeat it, and it may be a URL.
        _give_up("it takes no arguments; a broker's URL goes after --url")
    # The clients log errors of the peer, and a worker's warning is in the report.
    for library in ("amqp", "pika"):
        logging.getLogger(library).setLevel(logging.CRITICAL + 1)
    warnings.simplefilter("ignore")
    if phase is not None:
        _evaluate(phase, url, notifications, management, ca, interval, timeout, back, as_json)
    try:
        report = examine(
            url or None,
            idle_limit=idle_limit,
            ca=ca,
            management=management,
            client=client,
            app=None if app is None else _imported(app),
            heartbeat=heartbeat,
            timeout=timeout,
            progress=_show,
            heartbeat_in_pthread=heartbeat_in_pthread,
            worker=worker,
        )
    except HbshimError as error:
        _give_up(str(error))
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=2))
    else:
        from rich.console import Console

        from hbshim.doctor.printing import print_report

        print_report(report, Console(highlight=False), everything=everything)
    if report.unreachable:
        for name in _REACHING:
            finding = report.finding(name)
            if finding.verdict == "problem":
                click.echo(f"hbshim: {finding.sentence} {finding.remedy}", err=True)
    sys.exit(report.exit_status)


def _evaluate(
    phase: str,
    url: str | None,
    notifications: str | None,
    management: str | None,
    ca: str | None,
    interval: float,
    timeout: float,
    back: bool,
    as_json: bool,
) -> NoReturn:
    """Print what is in the way of a step of a migration; end with its exit status."""
    from hbshim.doctor.phase_gate import evaluate

    if not url or not notifications or not management:
        _give_up("--phase needs --url (the router), --notifications (RabbitMQ) and --management")
    try:
        found = evaluate(
            phase,
            "back" if back else "forward",
            router=url,
            rabbitmq=notifications,
            management=management,
            ca=ca,
            interval=interval,
            timeout=timeout,
            progress=_show,
        )
    except HbshimError as error:
        _give_up(str(error))
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
    else:
        for name, sentences in found.missing.items():
            click.echo(f"{'not yet' if sentences else 'ok':8} {name}")
            for sentence in sentences:
                click.echo(f"         {sentence}")
        verdict = "may enter" if found.is_open else "may not enter yet"
        click.echo(f"{found.phase}: {verdict} {found.leads_to}")
    sys.exit(found.exit_status)


def _imported(app: str) -> Any:
    module, _, name = app.partition(":")
    sys.path.insert(0, os.getcwd())  # `celery -A` searches there, too
    try:
        return getattr(importlib.import_module(module), name or "app")
    except (ImportError, AttributeError, ValueError) as error:
        raise OptionError(f"--app {app} cannot be imported ({error}); write MODULE:NAME") from None


def _show(sentence: str) -> None:
    """Print what is done now, for a person who waits."""
    if sys.stderr.isatty():
        click.echo(sentence, err=True)


def _give_up(sentence: str) -> NoReturn:
    click.echo(f"hbshim: {sentence}", err=True)
    sys.exit(2)
