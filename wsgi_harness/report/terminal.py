"""Exit codes and output width, for all commands of the harness."""

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
    """End the process with one line and its own exit code if there is no verdict.

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
    """Return a console on standard output, wide enough for a table."""
    console = Console()
    # Without a terminal, rich assumes 80 columns and would break every line of the table.
    return console if console.is_terminal else Console(width=max(console.width, _NARROWEST))
