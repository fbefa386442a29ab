"""The commands of ``hbshim`` that need click, and some of them rich."""

from __future__ import annotations

import contextlib
import json
import shutil
from importlib import import_module

import click

from hbshim import __version__
from hbshim.options import Options

INDENT = "    "

#: Commands that are defined elsewhere, each loaded when it is called.
ELSEWHERE = {
    "doctor": ("hbshim.doctor.command", "doctor"),
    "zmq-keys": ("hbshim.messaging.zmq.keys_command", "zmq_keys"),
    "zmq-proxy": ("hbshim.messaging.zmq.proxy.command", "zmq_proxy"),
}


class _Group(click.Group):
    """Lists commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in ELSEWHERE:
            module, name = ELSEWHERE[cmd_name]
            command: click.Command = getattr(import_module(module), name)
            return command
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hbshim")
def commands() -> None:
    """Keep AMQP connections alive, whatever the concurrency of the process."""


# Only for `hbshim --help`: hbshim.cli.main runs it without click.
commands.add_command(click.Command("run", short_help="Run a program with hbshim installed."))


@commands.command(short_help="Report what hbshim detects here, and the worker it would choose.")
@click.option("--heartbeat-in-pthread", metavar="true|false|auto", help="See hbshim options.")
@click.option("--worker", metavar="auto|pthread|greenthread|tpool", help="Force one worker.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def detect(heartbeat_in_pthread: str | None, worker: str | None, as_json: bool) -> None:
    """Show what hbshim detects in this process, and which worker it would choose.

    Of most use inside a program: call hbshim.detect().explain() there.
    """
    from hbshim.runtime.detect import detect as detect_here

    options = Options.load(heartbeat_in_pthread=heartbeat_in_pthread, worker=worker)
    report = detect_here(options.heartbeat_in_pthread, options.forced_worker)
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=2))
    else:
        for sentence in report.explain():
            click.echo(sentence)


@commands.command(short_help="Show the connections of a running process.")
@click.argument("target", metavar="[PATH|PID]", required=False)
@click.option("--once", is_flag=True, help="Print one table and end.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document for each process.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    help="Seconds between two snapshots.",
)
def watch(target: str | None, once: bool, as_json: bool, interval: float) -> None:
    """Show the connections of a running process, live.

    The process must have opened a socket: because of HBSHIM_WATCH_SOCKET=auto, of the option
    watch_socket in another source, or of hbshim.observe.listen(). PATH is that socket, or a
    directory with those of several processes; without PATH or PID, all processes of this user
    that use "auto" are shown.
    """
    from rich.console import Console

    from hbshim.observe import live

    console = Console(highlight=False, markup=False, emoji=False)
    if as_json:
        live.print_json(target, console)
    elif once or not console.is_terminal:
        live.print_once(target, console)
    else:
        with contextlib.suppress(KeyboardInterrupt):
            live.watch(target, console, interval)


@commands.command(short_help="Measure hbshim on this machine.")
@click.argument("benchmarks", nargs=-1)
@click.option(
    "--broker",
    envvar="HBSHIM_BROKER_URL",
    metavar="URL",
    help="A RabbitMQ to publish to; also from HBSHIM_BROKER_URL, which `ps` does not show.",
)
@click.option("--quick", is_flag=True, help="Fewer pairs, shorter waits.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def bench(benchmarks: tuple[str, ...], broker: str | None, quick: bool, as_json: bool) -> None:
    """Measure hbshim: import, memory, throughput, lateness, engine, rpc, zmq, amqp1.

    All unless named; amqp1 only with a router in HBSHIM_ROUTER_URL. Needs the extras kombu, pika,
    eventlet, gevent, oslo, zmq and, for amqp1, proton. Takes about 25 minutes, --quick 7.
    """
    from hbshim.bench import suite

    if unknown := sorted(set(benchmarks) - set(suite.BENCHMARKS)):
        raise click.BadParameter(
            f"{', '.join(unknown)}; there are: {', '.join(suite.BENCHMARKS)}",
            param_hint="BENCHMARKS",
        )
    result = suite.run(
        benchmarks or suite.BENCHMARKS,
        broker,
        quick=quick,
        progress=lambda name: click.echo(f"measuring {name} ...", err=True),
    )
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        suite.print_tables(result)


@commands.command(short_help="Print every option.")
def options() -> None:
    """Print every option: values, default, environment variable, URL key.

    First hbshim's own, then those of each messaging driver.
    """
    from hbshim.messaging.amqp.options import AmqpOptions
    from hbshim.messaging.amqp1.options import Amqp1Options
    from hbshim.messaging.zmq.options import ZmqOptions

    width = min(shutil.get_terminal_size().columns, 100)
    for title, rows in (
        ("hbshim", Options.describe()),
        ("messaging drivers for AMQP 0-9-1 (hbkombu://, hbpika://)", AmqpOptions.describe()),
        ("messaging driver for AMQP 1.0 (hbamqp://)", Amqp1Options.describe()),
        ("messaging driver for ZeroMQ (hbzmq://)", ZmqOptions.describe()),
    ):
        click.secho(f"{title}\n", bold=True)
        for row in rows:
            click.secho(row["option"], bold=True, nl=False)
            click.echo(f"  {row['accepts']}  (default: {row['default']})")
            click.echo(click.wrap_text(row["meaning"], width, INDENT, INDENT))
            click.echo(
                f"{INDENT}environment {row['environment']}, URL key {row['url'] or 'none'}\n"
            )
