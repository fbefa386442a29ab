"""The ``hbshim`` command.

``hbshim run`` needs only Python's standard library. Every other command needs the extra `cli`;
without it, the command names the extra.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hbshim.errors import HbshimError
from hbshim.extras import needs

_BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command, and end the process; an error of hbshim prints one line, with status 2.

    Parameters:
        arguments: by default those of the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--"]:
        del given[0]
    try:
        if given[:1] == ["run"]:
            from hbshim.cli.run import run

            run(given[1:])
        with needs(("click", "rich"), "cli"):
            from hbshim.cli.commands import commands

            commands(given, prog_name="hbshim")
    except HbshimError as error:
        sys.stderr.write(f"hbshim: {error}\n")
        sys.exit(_BAD_INPUT)
