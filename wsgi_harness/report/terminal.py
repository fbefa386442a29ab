"""Exit codes, options and output width, for all commands of the harness and the stress tests."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from wsgi_harness.errors import HarnessError

_NOT_RUN = 3
_INTERRUPTED = 130
_NARROWEST = 100


def harness_command(passed: str, failed: str, not_run: str) -> Callable[[Any], click.Command]:
    """Return the decorator of a command; its help ends with the exit codes.

    Parameters:
        passed: what 0 means.
        failed: what 1 means.
        not_run: why there is no verdict, which is 3.
    """
    exit_codes = f"""\b
Exit codes:
  0    {passed}
  1    {failed}
  2    the command line is wrong
  {_NOT_RUN}    no verdict: {not_run}
  {_INTERRUPTED}  interrupted; everything is removed again
"""
    settings = {"help_option_names": ["-h", "--help"]}
    return click.command(context_settings=settings, epilog=exit_codes)


#: The option ``--json``, as the parameter `as_json`.
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON, and nothing else."
)


def report_file(default: str | None = None) -> Callable[[Any], Any]:
    """Return the option ``--report`` of a command whose report is one file of JSON.

    Parameters:
        default: where it goes otherwise; None: nowhere.
    """
    kind = click.Path(dir_okay=False, path_type=Path)
    shown = f"  [default: {default}]" if default else ""
    return click.option(
        "--report", "path", type=kind, metavar="FILE", help=f"Where the JSON goes.{shown}"
    )


def report_directory(files: str, default: str) -> Callable[[Any], Any]:
    """Return the option ``--report`` of a command that writes several files.

    Parameters:
        files: what it writes.
        default: the directory where they go otherwise.
    """
    kind = click.Path(file_okay=False, path_type=Path)
    shown = f"Where {files} go.  [default: {default}]"
    return click.option("--report", "directory", type=kind, metavar="DIR", help=shown)


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
