"""The command `hbshim watch`: one snapshot, or repeated ones."""

from __future__ import annotations

import json
import time

from rich.console import Console
from rich.live import Live

from hbshim.errors import WatchError
from hbshim.observe.answer import ProcessSeen
from hbshim.observe.client import ProcessGone, ask, find
from hbshim.observe.table import Unanswered, render


def read_snapshots(target: str | None) -> list[ProcessSeen | Unanswered]:
    """Request the state of every process that `target` names.

    A directory may also hold sockets of processes that have ended, or that do not answer now; the
    others are shown.

    Raises:
        WatchError: there is no process; or the only one gave no answer.
    """
    paths = find(target)
    seen: list[ProcessSeen | Unanswered] = []
    for path in paths:
        try:
            seen.append(ask(path))
        except ProcessGone:
            if len(paths) == 1:
                raise
        except WatchError as error:
            if len(paths) == 1:
                raise
            seen.append(Unanswered(str(error)))
    if not seen:
        raise ProcessGone("the processes that could be watched here are gone")
    return seen


def print_once(target: str | None, console: Console) -> None:
    """Print one table for each process.

    Raises:
        WatchError: as for :func:`read_snapshots`.
    """
    console.print(render(read_snapshots(target), console.width))


def print_json(target: str | None, console: Console) -> None:
    """Print one JSON document for each process, one per line.

    Raises:
        WatchError: as for :func:`read_snapshots`, and if one of several gave no answer.
    """
    for one in read_snapshots(target):
        if isinstance(one, Unanswered):
            raise WatchError(one.reason)
        console.file.write(json.dumps(one.document) + "\n")


def watch(target: str | None, console: Console, interval: float) -> None:
    """Show the table until Ctrl-C, or until all processes have ended.

    Parameters:
        target: see :func:`hbshim.observe.client.find`.
        console: where to print.
        interval: seconds between two snapshots.

    Raises:
        WatchError: as for :func:`read_snapshots`, at the first snapshot; later, when all
            have ended.
    """
    seen = read_snapshots(target)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(render(seen, console.width, console.height), refresh=True)
            time.sleep(interval)
            seen = read_again(target, seen)


def read_again(
    target: str | None, before: list[ProcessSeen | Unanswered]
) -> list[ProcessSeen | Unanswered]:
    """Request the states again; a process that does not answer now keeps its last state.

    Raises:
        ProcessGone: all of them have ended.
    """
    try:
        return read_snapshots(target)
    except ProcessGone:
        raise
    except WatchError as error:
        known = [one for one in before if isinstance(one, ProcessSeen)]
        return [*known, Unanswered(str(error))]
