"""The doctor as a user calls it: a process of its own."""

import os
import subprocess
import sys
from dataclasses import dataclass


@dataclass
class Said:
    status: int
    out: str
    err: str


def begin(*argv, **environment):
    """Start ``hbshim doctor``; :func:`end` waits for it. Many may run side by side."""
    return subprocess.Popen(
        [sys.executable, "-m", "hbshim.cli", "doctor", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "80", **environment},
    )


def end(process):
    try:
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    return Said(process.returncode, out, err)


def doctor(*argv, **environment):
    return end(begin(*argv, **environment))
