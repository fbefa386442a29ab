"""An environment for each version of oslo.messaging, under ``build/oslo/``."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from tests.stress.child import CHECKOUT
from wsgi_harness.engine.commands import Progress, run
from wsgi_harness.paths import build_dir, set_up_lock

#: The last line that still has the option, and the newest.
VERSIONS = ("17.3", "18.3")
#: The last line with the driver ``amqp://``, and what that needs beside proton.
FORMER_VERSION, _FORMER_NEEDS = "14.9", "pyngus>=2.3,<3"
#: What oslo.messaging's tests import.
_OF_TESTS = ("oslotest>=5,<7", "pifpaf>=3.2,<4", "setuptools", "testscenarios>=0.5,<1")
_LIMIT = 900.0


def former_package(progress: Progress) -> Path:
    """Return a directory with the last oslo.messaging that has a driver ``amqp://``.

    Raises:
        HarnessError: pip fails.
    """
    return package(FORMER_VERSION, progress, _FORMER_NEEDS)


def package(version: str, progress: Progress, *more: str) -> Path:
    """Return a directory with this oslo.messaging alone, for the front of ``PYTHONPATH``.

    Without what it requires: the interpreter that imports it has that. Made within seconds.

    Parameters:
        version: the first two numbers; the latest release of that line is taken.
        more: what else to put there.

    Raises:
        HarnessError: pip fails.
    """
    directory = build_dir() / "oslo" / f"{version}-package"
    stamp = directory / ".installed"
    with set_up_lock(progress):
        if not stamp.exists():
            progress(f"fetching oslo.messaging {version}")
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
            target = ["--upgrade", "--target", str(directory), f"oslo.messaging~={version}.0"]
            run([*pip, *more, "--disable-pip-version-check", *target], timeout=_LIMIT)
            stamp.touch()
    return directory


def prepare(version: str, progress: Progress) -> Path:
    """Return the interpreter of an environment with this oslo.messaging and this hbshim.

    Parameters:
        version: the first two numbers; the latest release of that line is taken.

    Raises:
        HarnessError: pip fails.
    """
    directory = build_dir() / "oslo" / version
    python = directory / "bin" / "python"
    inputs = (CHECKOUT / "setup.py").read_bytes() + f"{sys.version}{CHECKOUT}{_OF_TESTS}".encode()
    stamp = directory / f".installed-{hashlib.sha256(inputs).hexdigest()[:16]}"
    with set_up_lock(progress):
        if not stamp.exists():
            progress(f"setting up an environment with oslo.messaging {version}")
            # Not cleared: another run may be using it.
            run([sys.executable, "-m", "venv", directory], timeout=_LIMIT)
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            ours = ["--editable", f"{CHECKOUT}[oslo,eventlet,zmq]"]
            run([*pip, *ours, f"oslo.messaging~={version}.0", *_OF_TESTS], timeout=_LIMIT)
            stamp.touch()
    return python
