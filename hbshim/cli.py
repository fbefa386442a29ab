"""The ``hbshim`` command."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import site
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from hbshim import __version__
from hbshim.activation import PTH, RUN_VARIABLE
from hbshim.errors import HbshimError
from hbshim.options import ENVIRONMENT_PREFIX, Options

BOOTSTRAP = Path(__file__).parent / "bootstrap"
INDENT = "    "


#: Commands that live in rooms of their own, each loaded when it is called.
ELSEWHERE = {"doctor": "hbshim.doctor.command"}


class HbshimGroup(click.Group):
    """Turns hbshim's own errors into one line and exit status 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in ELSEWHERE:
            command: click.Command = getattr(import_module(ELSEWHERE[cmd_name]), cmd_name)
            return command
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HbshimError as error:
            click.echo(f"hbshim: {error}", err=True)
            ctx.exit(2)


@click.group(cls=HbshimGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hbshim")
def main() -> None:
    """Keep AMQP connections alive, whatever the concurrency of the process."""


_option_flags = [
    click.option("--heartbeat-in-pthread", metavar="true|false|auto", help="See hbshim options."),
    click.option("--worker", metavar="auto|pthread|greenthread|tpool", help="Force one worker."),
]


def with_options(command: Any) -> Any:
    """Add the flags for hbshim's options that the commands share."""
    for flag in reversed(_option_flags):
        command = flag(command)
    return command


@main.command(
    short_help="Run a program with hbshim installed.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@with_options
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(heartbeat_in_pthread: str | None, worker: str | None, command: tuple[str, ...]) -> None:
    """Run COMMAND, a Python program as it is, with hbshim installed in it.

    The exit status is the command's. Not reached are interpreters started with -S, those of
    another environment that has no hbshim, and those whose environment variables are cleared
    in between, as Apache and some process managers do: call hbshim.install() there.
    `hbshim doctor` inside the program tells.
    """
    given: dict[str, Any] = {"heartbeat_in_pthread": heartbeat_in_pthread, "worker": worker}
    Options.load(**given)
    environment = dict(os.environ)
    for name, value in given.items():
        if value is not None:
            environment[ENVIRONMENT_PREFIX + name.upper()] = value
    path = [str(BOOTSTRAP), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(path)
    environment[RUN_VARIABLE] = "1"
    if shutil.which(command[0], path=environment.get("PATH")):
        for caution in _cautions(command):
            click.echo(f"hbshim: {caution}", err=True)
    # exec throws away what is still in Python's buffers.
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvpe(command[0], list(command), environment)
    except OSError as error:
        raise click.ClickException(
            f"cannot run {command[0]}: {error.strerror}; name a program on PATH or a full path"
        ) from None


def _cautions(command: Sequence[str]) -> list[str]:
    """What is known to keep hbshim out of `command`, one line each."""
    found, flags = [], _python_flags(command)
    has_pth = any(os.path.isfile(os.path.join(each, PTH)) for each in _site_directories())
    if "S" in flags:
        found.append(
            "Python is started with -S, so hbshim is not active in it; call hbshim.install() there"
        )
    elif not has_pth and flags & set("EI"):
        found.append(
            "Python is started with -E or -I and this environment has no hbshim.pth, so hbshim is "
            "not active in it; call hbshim.install() there, or install hbshim with pip"
        )
    elif not has_pth:
        found.append(
            "this environment has no hbshim.pth, so another launcher's sitecustomize may keep "
            "hbshim out of the program; install hbshim with pip, or put `hbshim run` behind it"
        )
    return found


def _site_directories() -> list[str]:
    user = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return [*site.getsitepackages(), *user]


def _python_flags(command: Sequence[str]) -> set[str]:
    """The flags without a value that an interpreter is given; empty for another program."""
    flags: set[str] = set()
    arguments = iter(command[1:])
    if not os.path.basename(command[0]).startswith(("python", "pypy")):
        return flags
    for argument in arguments:
        if not argument.startswith("-") or argument.startswith("--") or argument == "-":
            break
        # Letters up to the first that has a value, which may be the next argument.
        plain = re.match(r"-([a-zA-Z]*?)([cmWX]|$)(.*)", argument)
        flags.update(plain[1] if plain else "")
        if plain is None or plain[2] in ("c", "m"):
            break
        if plain[2] and not plain[3]:
            next(arguments, None)
    return flags


@main.command(short_help="Say what hbshim sees here, and what it would choose.")
@with_options
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def detect(heartbeat_in_pthread: str | None, worker: str | None, as_json: bool) -> None:
    """Say what hbshim sees in this process, and which worker it would choose.

    Of most use inside a program: call hbshim.detect().explain() there.
    """
    from hbshim.runtime.detect import detect as look

    options = Options.load(heartbeat_in_pthread=heartbeat_in_pthread, worker=worker)
    report = look(options.heartbeat_in_pthread, options.forced_worker)
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=2))
    else:
        for sentence in report.explain():
            click.echo(sentence)


@main.command(short_help="Show the connections of a running process.")
@click.argument("target", metavar="[PATH|PID]", required=False)
@click.option("--once", is_flag=True, help="Print one table and end.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document for each process.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
def watch(target: str | None, once: bool, as_json: bool, interval: float) -> None:
    """Show the connections of a running process, live.

    The process must have been asked to open its socket: by HBSHIM_WATCH_SOCKET=auto, by
    another source of options, or by hbshim.observe.listen(). PATH is that socket, or a
    directory with those of several; without PATH or PID, all of this user's that used
    "auto" are shown.
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


@main.command(short_help="Measure hbshim on this machine.")
@click.argument("benchmarks", nargs=-1)
@click.option(
    "--broker",
    envvar="HBSHIM_BROKER_URL",
    metavar="URL",
    help="A RabbitMQ to publish to; also from HBSHIM_BROKER_URL, where no `ps` shows it.",
)
@click.option("--quick", is_flag=True, help="Fewer pairs, shorter waits.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def bench(benchmarks: tuple[str, ...], broker: str | None, quick: bool, as_json: bool) -> None:
    """Measure hbshim: import, memory, throughput, lateness, engine, rpc; all unless named.

    Needs the extras kombu, pika, eventlet and oslo. Takes about 20 minutes, --quick 6.
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


@main.command(short_help="Print every option.")
def options() -> None:
    """Print every option: values, default, environment variable, URL key.

    First hbshim's own, then those of the messaging drivers.
    """
    from hbshim.messaging.options import MessagingOptions

    width = min(shutil.get_terminal_size().columns, 100)
    for title, rows in (
        ("hbshim", Options.describe()),
        ("messaging drivers (hbkombu://, hbpika://)", MessagingOptions.describe()),
    ):
        click.secho(f"{title}\n", bold=True)
        for row in rows:
            click.secho(row["option"], bold=True, nl=False)
            click.echo(f"  {row['accepts']}  (default: {row['default']})")
            click.echo(click.wrap_text(row["meaning"], width, INDENT, INDENT))
            click.echo(
                f"{INDENT}environment {row['environment']}, URL key {row['url'] or 'none'}\n"
            )


if __name__ == "__main__":
    sys.exit(main())
