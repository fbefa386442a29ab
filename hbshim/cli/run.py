"""``hbshim run``: start a program with hbshim installed in it. Needs no other library."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import site
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from hbshim.activation import PTH, RUN_VARIABLE
from hbshim.options import ENVIRONMENT_PREFIX, Options

BOOTSTRAP = Path(__file__).parents[1] / "bootstrap"

_DESCRIPTION = """\
Run COMMAND, a Python program as it is, with hbshim installed in it.

The exit status is the command's. hbshim is not active in interpreters that
are started with -S, in those of another environment that has no hbshim, and
in those whose environment variables are cleared before they start, as Apache
and some process managers do: call hbshim.install() there. `hbshim doctor`
inside the program reports whether hbshim is active.
"""


def run(arguments: Sequence[str]) -> NoReturn:
    """Replace this process by the program in `arguments`, which follows the options.

    Raises:
        OptionError: an option is not valid.
        SystemExit: the program cannot be run, or `arguments` cannot be parsed.
    """
    given, command = _read(arguments)
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
            _warn(caution)
    # exec discards what is still in Python's buffers.
    for stream in (sys.stdout, sys.stderr):
        # None if the descriptor is closed, as some supervisors do.
        if stream is not None:
            stream.flush()
    try:
        os.execvpe(command[0], list(command), environment)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        sys.exit(
            f"hbshim: cannot run {command[0]}: {reason}; name a program on PATH or a full path"
        )


def _warn(sentence: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"hbshim: {sentence}\n")


def _read(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the options, and the command with its own arguments."""
    parser = argparse.ArgumentParser(
        prog="hbshim run",
        usage="hbshim run [OPTIONS] [--] COMMAND...",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--heartbeat-in-pthread", metavar="true|false|auto", help="See hbshim options."
    )
    parser.add_argument(
        "--worker", metavar="auto|pthread|greenthread|tpool", help="Force one worker."
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    given = vars(parser.parse_args(arguments))
    command: list[str] = given.pop("command")
    if command[:1] == ["--"]:
        del command[0]
    if not command:
        parser.error("name the program to run")
    return given, command


def _cautions(command: Sequence[str]) -> list[str]:
    """Return what is known to keep hbshim out of `command`, one line each."""
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
    """Return the flags without a value of an interpreter; empty for another program."""
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
