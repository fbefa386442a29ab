"""The doctor as a user calls it: a process of its own."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

#: Processes side by side; each needs most of a core while it starts.
AT_ONCE = 4


@dataclass
class Said:
    status: int
    out: str
    err: str


def doctor(*argv, **environment):
    """What ``hbshim doctor`` says, in a terminal of 80 columns."""
    inherited = {name: value for name, value in os.environ.items() if "HBSHIM" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "hbshim.cli", "doctor", *argv],
        capture_output=True,
        text=True,
        timeout=120,
        env={**inherited, "COLUMNS": "80", **environment},
    )
    return Said(done.returncode, done.stdout, done.stderr)


def doctors(calls):
    """What ``hbshim doctor`` says to each of `calls`, a dict of arguments, side by side."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        said = pool.map(lambda argv: doctor(*argv), calls.values())
        return dict(zip(calls, said, strict=True))
