"""The harness' own files, and the directory for generated ones."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path

HARNESS = Path(__file__).resolve().parent
CHECKOUT = HARNESS.parent

CONTAINERS = CHECKOUT / "containers"


def build_dir() -> Path:
    """Return the directory for everything generated or downloaded, made when missing.

    `HBSHIM_BUILD_DIR` names it; without, it is `build/` of the checkout.
    """
    named = os.environ.get("HBSHIM_BUILD_DIR")
    path = Path(named).resolve() if named else CHECKOUT / "build"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def set_up_lock(progress: Callable[[str], None]) -> Iterator[None]:
    """Let one process at a time of this checkout download, start and build."""
    with (build_dir() / ".set-up.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another run that is setting up in this checkout")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def package_dir(name: str) -> Path:
    """Return the directory of an importable top-level package, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{name} is not an importable package", name=name)
    return Path(spec.submodule_search_locations[0]).resolve()
