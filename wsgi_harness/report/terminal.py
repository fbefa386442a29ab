"""What the harness' commands have in common: how they end, and how wide they print."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import click
from rich.console import Console

from wsgi_harness.errors import HarnessError

_NOT_RUN = 3
_INTERRUPTED = 130
_NARROWEST = 100


@contextlib.contextmanager
def ending_well(command: str) -> Iterator[None]:
    """End the process with one line and an exit code of its own where there is no verdict.

    Parameters:
        command: its name, for that line.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        click.echo(f"{command}: {error.name} is missing; pip install -e '.[test]'", err=True)
        sys.exit(_NOT_RUN)
    except HarnessError as error:
        click.echo(f"{command}: {error}", err=True)
        sys.exit(_NOT_RUN)
    except OSError as error:
        click.echo(f"{command}: {error.strerror}: {error.filename or 'network'}", err=True)
        sys.exit(_NOT_RUN)
    except KeyboardInterrupt:
        click.echo(f"{command}: interrupted", err=True)
        sys.exit(_INTERRUPTED)


def result_console() -> Console:
    """Standard output, wide enough for a table."""
    console = Console()
    # Not in a terminal, rich assumes 80 columns and would break every line of the table.
    return console if console.is_terminal else Console(width=max(console.width, _NARROWEST))
