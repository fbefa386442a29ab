"""Facts of the Python interpreter that decide whether a native thread can run in it."""

from __future__ import annotations

import functools
import importlib
import sys
from dataclasses import dataclass
from typing import Any

from hbshim.errors import WorkerError
from hbshim.runtime.loaded import peek


@dataclass(frozen=True)
class InterpreterFacts:
    """The interpreter this code runs in.

    Attributes:
        python: version, as "3.12.1".
        main: False in a sub-interpreter; None when Python does not report it.
        daemon_threads: ``threading.Thread(daemon=True)`` is allowed.
        own_gil: a sub-interpreter with a GIL of its own (PEP 684, Python 3.12);
            the main interpreter's GIL is not called "own".
        free_threaded: a build without a GIL (PEP 703).
        gil_enabled: False only where a free-threaded build really runs without.
    """

    python: str
    main: bool | None
    daemon_threads: bool
    own_gil: bool
    free_threaded: bool
    gil_enabled: bool


@functools.cache  # These facts of an interpreter never change; cached once in each.
def inspect_interpreter() -> InterpreterFacts:
    """Return the facts; imports one small C module of the standard library."""
    main = _is_main()
    # Since Python 3.12; before, no interpreter of a host forbids daemon threads.
    daemon_threads_allowed = peek("_thread", "daemon_threads_allowed")
    daemon_threads = daemon_threads_allowed is None or bool(daemon_threads_allowed())
    is_gil_enabled = getattr(sys, "_is_gil_enabled", None)  # since Python 3.13
    return InterpreterFacts(
        python=".".join(map(str, sys.version_info[:3])),
        main=main,
        daemon_threads=daemon_threads,
        own_gil=main is False and _has_own_gil(daemon_threads),
        # sysconfig's Py_GIL_DISABLED has the same value, after 3 ms of imports.
        free_threaded="t" in getattr(sys, "abiflags", ""),
        gil_enabled=is_gil_enabled is None or bool(is_gil_enabled()),
    )


def require_gil() -> None:
    """Raise an error in an interpreter that runs without the GIL.

    The heartbeat thread checks that a stream is at a frame boundary and sends a heartbeat in one
    step. No other thread can interrupt it, because the step keeps the GIL. Without the GIL, a
    heartbeat could be sent inside a frame, which ends the connection.

    Raises:
        WorkerError: there is no GIL.
    """
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        raise WorkerError(
            "hbshim needs the GIL, and this free-threaded Python runs without it; start it with "
            "PYTHON_GIL=1, or use the ordinary build of this Python"
        )


def _interpreters() -> Any:
    """Return CPython's own module on interpreters, under its current name, or None."""
    name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    try:
        return importlib.import_module(name)
    except ImportError:  # minimal Python packages leave it out
        return None


def _is_main() -> bool | None:
    interpreters = _interpreters()
    if interpreters is None:
        return None
    # Python 3.13 answers (id, whence), older ones an id; equal either way.
    return bool(interpreters.get_current() == interpreters.get_main())


def _has_own_gil(daemon_threads: bool) -> bool:
    if sys.version_info >= (3, 13):
        interpreters = _interpreters()
        config = interpreters.get_config(interpreters.get_current()[0])
        return str(config.gil) == "own"
    # Python 3.12 does not report it, but its two ready-made configurations are "legacy"
    # (shared GIL, daemon threads) and "own GIL, no daemon threads".
    return not daemon_threads
