"""An interpreter with qpid-proton, which has no wheels: it is compiled where it is installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from wsgi_harness.engine.commands import Progress, run, silent
from wsgi_harness.paths import build_dir, set_up_lock

PROTON = "python-qpid-proton==0.40.0"
_LIMIT = 600.0


def proton_python() -> Path:
    """Return the interpreter with proton: this one, or that of an environment under ``build/``.

    The environment is there once :func:`install_proton` has made it.
    """
    if importlib.util.find_spec("proton") is not None:
        return Path(sys.executable)
    return _environment() / "bin" / "python"


def has_proton() -> bool:
    """Return whether :func:`install_proton` would have nothing to do."""
    return proton_python() == Path(sys.executable) or (_environment() / ".installed").exists()


def install_proton(progress: Progress = silent) -> None:
    """Build proton from its source, unless it is there.

    Needs a C compiler and the headers of Python. Without those of OpenSSL proton has no TLS, and
    does not report that.

    Raises:
        HarnessError: it cannot be built.
    """
    with set_up_lock(progress):
        if has_proton():
            return
        progress(f"building {PROTON}")
        directory = _environment()
        run([sys.executable, "-m", "venv", str(directory)], timeout=_LIMIT)
        pip = (str(directory / "bin" / "python"), "-m", "pip", "--disable-pip-version-check")
        run([*pip, "install", "--quiet", PROTON], timeout=_LIMIT)
        (directory / ".installed").touch()


def _environment() -> Path:
    return build_dir() / "amqp1" / "proton"
