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


def exit_codes(passed: str, failed: str, not_run: str) -> str:
    """Return the exit codes of a command, for the end of its help.

    Parameters:
        passed: what 0 means.
        failed: what 1 means.
        not_run: why there is no verdict, which is 3.
    """
    return f"""\b
Exit codes:
  0    {passed}
  1    {failed}
  2    the command line is wrong
  {_NOT_RUN}    no verdict: {not_run}
  {_INTERRUPTED}  interrupted; everything is removed again
"""


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
