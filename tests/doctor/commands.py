"""The doctor as a user calls it: a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

#: Processes side by side; each needs most of a core while it starts.
AT_ONCE = 4


@dataclass
class Said:
    status: int
    out: str
    err: str


def doctor(*argv: str, **environment: str) -> Said:
    """The output of ``hbshim doctor`` in a terminal of 80 columns."""
    inherited = {name: value for name, value in os.environ.items() if "HBSHIM" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "hbshim", "doctor", *argv],
        capture_output=True,
        text=True,
        timeout=120,
        env={**inherited, "COLUMNS": "80", **environment},
    )
    return Said(done.returncode, done.stdout, done.stderr)


Key = TypeVar("Key")


def doctors(
    calls: Mapping[Key, tuple[str, ...]],
) -> dict[Key, Said]:
    """The output of ``hbshim doctor`` for each of `calls`, a dict of arguments, side by side."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        said = pool.map(lambda argv: doctor(*argv), calls.values())
        return dict(zip(calls, said, strict=True))


#: Runs the command for each list of arguments on stdin, in one interpreter.
_IN_TURN = """
import contextlib, io, json, sys
from hbshim.doctor.command import doctor

def say(argv):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            doctor.main(argv, prog_name="hbshim doctor")
        except SystemExit as leaving:
            return leaving.code, out.getvalue(), err.getvalue()

json.dump([say(argv) for argv in json.load(sys.stdin)], sys.stdout)
"""


def in_turn(calls: Mapping[Key, tuple[str, ...]]) -> dict[Key, Said]:
    """As :func:`doctors`, but one after another in one process: for what takes no time."""
    inherited = {name: value for name, value in os.environ.items() if "HBSHIM" not in name}
    done = subprocess.run(
        [sys.executable, "-c", _IN_TURN],
        input=json.dumps(list(calls.values())),
        capture_output=True,
        text=True,
        timeout=300,
        env={**inherited, "COLUMNS": "80"},
    )
    # What a call leaves on the real stderr, such as the traceback of a thread, belongs to no call.
    assert (done.returncode, done.stderr) == (0, "")
    return {key: Said(*said) for key, said in zip(calls, json.loads(done.stdout), strict=True)}
