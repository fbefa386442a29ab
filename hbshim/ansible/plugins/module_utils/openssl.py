"""Runs the command openssl of a host."""

from __future__ import annotations

import subprocess


class OpensslError(Exception):
    """The command has failed; the message is what it wrote, without keys."""


def openssl(*arguments: str, given: str = "") -> str:
    """Return what openssl writes.

    Parameters:
        given: its standard input.

    Raises:
        OpensslError: it fails, or is not installed.
    """
    command = ["openssl", *arguments]
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise OpensslError("the command openssl is missing; install the package openssl") from None
    if done.returncode:
        raise OpensslError(f"openssl {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


def succeeds(*arguments: str, given: str = "") -> bool:
    """Return whether openssl ends with status 0."""
    try:
        openssl(*arguments, given=given)
    except OpensslError:
        return False
    return True
