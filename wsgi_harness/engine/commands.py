"""Runs a command with a time limit; the error shows its last output."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from wsgi_harness.errors import CommandError

Progress = Callable[[str], None]
"""Takes one line about what is being done; may be called from several threads."""

_SHOWN_LINES = 15
_GRACE = 10.0


def silent(line: str) -> None:
    """Drop a line of progress."""


def run(
    argv: Sequence[str | Path],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    merge_stderr: bool = False,
) -> str:
    """Run a command and return what it wrote to standard output.

    Parameters:
        argv: the command; it must hold no secret, as it is shown in errors.
        timeout: seconds until the command and its children are killed.
        env: added to the environment of this process.
        stdin: text for its standard input; empty when left out.
        merge_stderr: return standard error as well, in order.

    Raises:
        CommandError: it could not be started, failed, or took too long.
    """
    words = [str(word) for word in argv]
    shown = " ".join(words)
    try:
        # A session of its own: on a timeout or Ctrl-C its children go too. Killing the parent
        # alone would leave them holding the pipe, and the read below would wait for them.
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merge_stderr else subprocess.PIPE,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise CommandError(f"cannot run `{shown}`: {error.strerror}") from error
    with process:
        try:
            out, err = process.communicate(stdin or "", timeout=timeout)
        except BaseException as error:
            end(process)
            if isinstance(error, subprocess.TimeoutExpired):
                raise CommandError(f"`{shown}` took longer than {timeout:g} s") from None
            raise
    if process.returncode:
        last = tail(out + (err or ""))
        raise CommandError(f"`{shown}` failed with status {process.returncode}:\n{last}")
    return out


def tail(output: str) -> str:
    """Return the last lines of a command's output, as errors show them."""
    return "\n".join(output.strip().splitlines()[-_SHOWN_LINES:])


def end(process: subprocess.Popen[str]) -> None:
    """End a process that leads its own session, and its children."""
    # SIGTERM first: apt, mmdebstrap and docker build leave less behind if they can clean up.
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_GRACE)
            return


def succeeds(
    argv: Sequence[str | Path], *, timeout: float, env: Mapping[str, str] | None = None
) -> bool:
    """Return whether a command exists, ends in time, and with status 0."""
    try:
        run(argv, timeout=timeout, env=env)
    except CommandError:
        return False
    return True
