"""The command `hbshim watch`: one look, or one after another."""

from __future__ import annotations

import json
import time

from rich.console import Console
from rich.live import Live

from hbshim.errors import WatchError
from hbshim.observe.answer import ProcessSeen
from hbshim.observe.client import ProcessGone, ask, find
from hbshim.observe.table import Unanswered, render


def look(target: str | None) -> list[ProcessSeen | Unanswered]:
    """Ask every process that `target` means.

    A directory also holds sockets of processes that are gone, or that do not answer
    just now; what is left is shown.

    Raises:
        WatchError: there is nobody to ask; or the only one gave no answer.
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
        WatchError: as for :func:`look`.
    """
    console.print(render(look(target), console.width))


def print_json(target: str | None, console: Console) -> None:
    """Print one JSON document for each process, a line each.

    Raises:
        WatchError: as for :func:`look`, and if one of several gave no answer.
    """
    for one in look(target):
        if isinstance(one, Unanswered):
            raise WatchError(one.reason)
        console.file.write(json.dumps(one.document) + "\n")


def watch(target: str | None, console: Console, interval: float) -> None:
    """Show the table until Ctrl-C, or until there is nobody left to ask.

    Parameters:
        interval: seconds between two looks.

    Raises:
        WatchError: as for :func:`look`, at the first look; later on, when all are gone.
    """
    seen = look(target)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(render(seen, console.width, console.height), refresh=True)
            time.sleep(interval)
            seen = look_again(target, seen)


def look_again(
    target: str | None, before: list[ProcessSeen | Unanswered]
) -> list[ProcessSeen | Unanswered]:
    """Ask once more; a process that does not answer now stays on show as it was.

    Raises:
        ProcessGone: all of them are.
    """
    try:
        return look(target)
    except ProcessGone:
        raise
    except WatchError as error:
        known = [one for one in before if isinstance(one, ProcessSeen)]
        return [*known, Unanswered(str(error))]
