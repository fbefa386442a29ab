"""``make migration``: from RabbitMQ to a router and back, under load; every message is counted."""

from __future__ import annotations

import json
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
from rich.table import Table

from tests.stress.migration.invariant import KINDS, Result
from tests.stress.migration.run import Migration, Urls
from wsgi_harness.report.terminal import (
    ending_well,
    harness_command,
    report_file,
    result_console,
)


@harness_command(
    passed="no message was lost, executed twice or refused",
    failed="one was",
    not_run="containers or the router could not be started, or a gate did not open",
)
@click.option(
    "--messages",
    type=click.IntRange(min=1),
    default=20_000,
    show_default=True,
    help="Calls, casts, fanouts and notifications, of each, in each direction, at least.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 64),
    default=8,
    show_default=True,
    help="Of each of the two clients.",
)
@click.option(
    "--interval",
    type=click.FloatRange(min=1.5),
    default=3.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a gate observes the senders.",
)
@report_file()
def migration(messages: int, threads: int, interval: float, path: Path | None) -> None:
    """Migrate a deployment from RabbitMQ to a router and roll it back, while clients send.

    Two servers and two clients are restarted one by one, as the phases want it; each gate is that
    of hbshim doctor --phase.
    """
    with ending_well("migration"):
        began = time.monotonic()
        result, steps = _run(messages, threads, interval)
    seconds = time.monotonic() - began
    if path is not None:
        data = {**vars(result), "held": result.holds, "gates": steps, "seconds": seconds}
        path.write_text(json.dumps(data, indent=2), encoding="utf-8")
    console = result_console()
    table = Table("kind", "sent", "answered or stored", "executed")
    for kind in KINDS:
        table.add_row(kind, *(str(each[kind]) for each in (result.sent, result.done, result.ran)))
    console.print(table)
    for name in ("failed", "lost", "twice", "missed", "unknown", "unfinished"):
        found: Sequence[str] = getattr(result, name)
        console.print(f"{name}: {len(found)}{': ' if found else ''}{'; '.join(found[:10])}")
    console.print(f"notifications handled again: {len(result.again)}")
    console.print(
        f"{'The invariant held' if result.holds else 'The invariant did NOT hold'}, "
        f"{steps} gates, {seconds:.0f} s"
    )
    sys.exit(0 if result.holds else 1)


def _run(messages: int, threads: int, interval: float) -> tuple[Result, int]:
    from urllib.parse import quote

    from tests.messaging.amqp1.routers import HOST, plan
    from wsgi_harness.router.environment import has_proton, install_proton
    from wsgi_harness.router.plan import free_port
    from wsgi_harness.router.process import RouterProcess
    from wsgi_harness.stack.stack import Stack, project_name

    if not has_proton():
        install_proton()
    with (
        Stack(project_name("migration"), heartbeat=60, progress=_say) as stack,
        tempfile.TemporaryDirectory(prefix="hbshim-migration-") as directory,
    ):
        broker, port = stack.broker, free_port()
        vhost = f"migration-{secrets.token_hex(4)}"
        broker.management.add_vhost(vhost)
        router = RouterProcess(plan(port))
        try:
            rabbitmq = broker.amqp_url(vhost=vhost).replace("amqp://", "hbpika://")
            login = f"{quote(broker.user)}:{quote(broker.password)}@"
            urls = Urls(
                rabbitmq,
                f"hbamqp://{HOST}:{port}/{vhost}?login_method=ANONYMOUS",
                rabbitmq,
                broker.management_url.replace("://", f"://{login}"),
            )
            with Migration(
                urls, Path(directory), threads=threads, interval=interval, progress=_say
            ) as deployment:
                deployment.go("forward", messages)
                deployment.go("back", messages)
                result = deployment.finish()
            return result, sum(gate.is_open for gate in deployment.gates)
        finally:
            router.stop()


def _say(line: str) -> None:
    click.echo(f"migration: {line}", err=True)


if __name__ == "__main__":
    migration(prog_name="migration")
