"""Progress in the terminal, always on standard error: standard output is for the result."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class TerminalDisplay:
    """A spinner with the latest line, and a bar for each stage; plain lines without a terminal.

    A context manager: restores the terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._latest = self._progress.add_task("", total=None, visible=False)

    def __enter__(self) -> TerminalDisplay:
        self._progress.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._progress.stop()

    def note(self, line: str) -> None:
        """Show one line; from any thread."""
        self._console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
        self._progress.update(self._latest, description=line.splitlines()[0], visible=True)

    @contextlib.contextmanager
    def stage(self, title: str, total: float) -> Iterator[Callable[[float], None]]:
        """Show a bar; yields a function that takes the progress."""
        self._console.print(title, style="dim", markup=False, highlight=False)
        self._progress.update(self._latest, visible=False)
        task = self._progress.add_task(title, total=total)

        def advance_to(completed: float) -> None:
            self._progress.update(task, completed=completed)

        try:
            yield advance_to
        finally:
            self._progress.remove_task(task)
