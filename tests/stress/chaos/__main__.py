"""``make chaos``: faults at random, and one invariant; ``python -m tests.stress.chaos --help``."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from tests.stress.chaos.faults import FAULTS
from tests.stress.chaos.plan import Step, draw
from tests.stress.chaos.zmq.faults import FAULTS as ZMQ_FAULTS
from wsgi_harness.report.terminal import (
    ending_well,
    harness_command,
    json_option,
    report_file,
    result_console,
)

_SHORTEST = 5.0


@harness_command(
    passed="the invariant held",
    failed="it did not",
    not_run="the containers could not be started, or a fault could not be made",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=_SHORTEST),
    default=60.0,
    show_default=True,
    help="How long faults happen.",
)
@click.option("--seed", type=int, help="Repeat the faults of a run that printed this seed.")
@click.option(
    "--heartbeat",
    type=click.IntRange(1, 60),
    default=2,
    show_default=True,
    metavar="T",
    help="Heartbeat timeout in seconds.",
)
@click.option(
    "--zones",
    type=click.IntRange(1, 20),
    default=3,
    show_default=True,
    help="Relays; each application has a connection of each workload behind each of them. With "
    "hbzmq: hosts.",
)
@click.option(
    "--driver",
    type=click.Choice(["hbzmq"]),
    help="Break messages over this driver, and not connections to a broker.",
)
@click.option(
    "--fault",
    "names",
    multiple=True,
    type=click.Choice(list(FAULTS | ZMQ_FAULTS)),
    metavar="NAME",
    help="Only this fault; repeatable.",
)
@click.option("--gevent", is_flag=True, help="Applications over gevent, too.")
@click.option("--without-hbshim", is_flag=True, help="The control: the invariant must not hold.")
@json_option
@report_file("build/chaos/results.json")
@click.option("--list", "listing", is_flag=True, help="Show every fault.")
def main(
    seconds: float,
    seed: int | None,
    heartbeat: int,
    zones: int,
    driver: str | None,
    names: Sequence[str],
    gevent: bool,
    without_hbshim: bool,
    as_json: bool,
    path: Path | None,
    listing: bool,
) -> None:
    """Break networks, brokers and processes at random under many connections.

    One invariant is checked: every message is confirmed or reported, every link is alive,
    reconnected or reported dead within its bound.
    """
    known = FAULTS if driver is None else ZMQ_FAULTS
    if foreign := [name for name in names if name not in known]:
        raise click.UsageError(f"{', '.join(foreign)}: no such fault; --list shows them")
    if listing:
        for line in _listed(driver):
            click.echo(line)
        return
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    with ending_well("chaos"):
        held = (
            _run_zmq(seconds, seed, heartbeat, zones, names, gevent, as_json, path)
            if driver
            else _run(
                seconds,
                seed,
                heartbeat,
                [f"zone{number}" for number in range(1, zones + 1)],
                names or list(FAULTS),
                gevent,
                not without_hbshim,
                as_json,
                path,
            )
        )
    sys.exit(0 if held else 1)


def _listed(driver: str | None) -> list[str]:
    if driver is None:
        return [f"{each.name:16} {each.scope.value:8} {each.what}" for each in FAULTS.values()]
    return [f"{each.name:18} {each.target.value:10} {each.what}" for each in ZMQ_FAULTS.values()]


def _run_zmq(
    seconds: float,
    seed: int,
    heartbeat: int,
    hosts: int,
    names: Sequence[str],
    gevent: bool,
    as_json: bool,
    path: Path | None,
) -> bool:
    # Costly, and they need the extra `zmq`.
    from tests.stress.chaos.zmq import command
    from tests.stress.chaos.zmq.run import MODELS, Setting
    from wsgi_harness.paths import build_dir
    from wsgi_harness.report.display import TerminalDisplay

    logs = build_dir() / "chaos-zmq"
    logs.mkdir(exist_ok=True)
    path = path or logs / "results.json"
    path.touch()
    with TerminalDisplay(Console(stderr=True)) as display:
        models = (*MODELS, "gevent") if gevent else MODELS
        setting = Setting(heartbeat, seed, hosts, models)
        outcome = command.run(setting, seconds, names, logs, display)
    command.dump(outcome, path)
    if as_json:
        click.echo(json.dumps(command.as_data(outcome)))
    else:
        command.print_outcome(result_console(), outcome)
        click.echo(f"Data: {path}")
    return not outcome.result.violations


def _run(
    seconds: float,
    seed: int,
    heartbeat: int,
    zones: Sequence[str],
    names: Sequence[str],
    gevent: bool,
    shim: bool,
    as_json: bool,
    path: Path | None,
) -> bool:
    # Costly, and most of them need the extra `harness`.
    from tests.stress.chaos import report
    from tests.stress.chaos.run import MODELS, ChaosTestbed, Setting
    from wsgi_harness.paths import build_dir
    from wsgi_harness.report.display import TerminalDisplay
    from wsgi_harness.stack.stack import Stack, project_name

    models = (*MODELS, "gevent") if gevent else MODELS
    setting = Setting(heartbeat, seed, zones, models=models, shim=shim)
    kinds = [FAULTS[name] for name in names]
    steps = draw(seed, seconds, heartbeat, zones, setting.processes, kinds)
    logs = build_dir() / "chaos"
    logs.mkdir(exist_ok=True)
    path = path or logs / "results.json"
    path.touch()
    with TerminalDisplay(Console(stderr=True)) as display:
        display.note(f"seed {seed}: {len(steps)} faults for {len(setting.places)} sessions")

        with Stack(project_name("chaos"), heartbeat=60, progress=display.note) as stack:
            display.note("connecting")
            with ChaosTestbed(setting, stack.broker, stack, logs=logs) as testbed:
                with display.stage("faults", total=max(len(steps), 1)) as advance:

                    def reported(step: Step) -> None:
                        display.note(f"{step.at:6.1f} s  {step.kind.name} {step.target}")
                        advance(steps.index(step) + 1)

                    testbed.carry_out(steps, reported)
                display.note("all is well again; waiting for the last messages")
                outcome = testbed.outcome(steps)
    report.write(outcome, path)
    if as_json:
        click.echo(json.dumps(report.as_data(outcome)))
    else:
        report.print_outcome(result_console(), outcome)
        click.echo(f"Data: {path}")
    return not outcome.violations


if __name__ == "__main__":
    main()
