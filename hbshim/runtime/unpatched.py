"""Real operating-system primitives, whatever eventlet or gevent have patched.

After ``monkey_patch()`` even ``_thread.start_new_thread`` and
``_thread.allocate_lock`` are green: an engine built on them runs inside the hub
and freezes it. This module is the only place that reaches behind the patches;
nothing else in hbshim imports ``threading`` or ``_thread``.

Lookups are made at each call of a factory, never captured at import: the
program may patch before or after it imports hbshim.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any, Protocol

from hbshim.errors import WorkerError


class NativeLock(Protocol):
    """What ``_thread`` hands out: a lock the operating system knows."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
    def release(self) -> None: ...
    def __enter__(self) -> bool: ...
    def __exit__(self, *exc_info: object) -> None: ...


def original_module(name: str) -> types.ModuleType:
    """The module `name` as it was before eventlet patched it.

    eventlet patches in place and keeps an unpatched copy; when eventlet is not
    loaded, or has not patched `name`, the module itself is the original.
    """
    patcher = sys.modules.get("eventlet.patcher")
    module = __import__(name) if patcher is None else patcher.original(name)
    assert isinstance(module, types.ModuleType)
    return module


def original(module_name: str, attribute: str) -> Any:
    """One unpatched attribute, asking gevent, then eventlet, then the module itself."""
    gevent_monkey = sys.modules.get("gevent.monkey")
    # gevent answers with the current object when it has not patched it, which
    # may be eventlet's: only believe it where it did patch.
    if gevent_monkey is not None and gevent_monkey.is_object_patched(module_name, attribute):
        return gevent_monkey.get_original(module_name, attribute)
    return getattr(original_module(module_name), attribute)


def allocate_lock() -> NativeLock:
    """A native lock: it blocks the operating-system thread, never a greenlet."""
    lock: NativeLock = original("_thread", "allocate_lock")()
    return lock


def allocate_reentrant_lock() -> NativeLock:
    """A native lock that its own operating-system thread may take again."""
    lock: NativeLock = original("_thread", "RLock")()
    return lock


def get_ident() -> int:
    """Identity of the operating-system thread, not of the greenlet."""
    ident: int = original("_thread", "get_ident")()
    return ident


def start_native_thread(function: Callable[[], None], on_exit: Callable[[], None]) -> None:
    """Run `function` in a new operating-system thread.

    Parameters:
        function: called once, without arguments; it must not raise.
        on_exit: makes `function` return soon. It is called at interpreter exit,
            and only where daemon threads are forbidden (sub-interpreters with a
            GIL of their own): there the interpreter joins every thread.

    Raises:
        WorkerError: the process cannot start another thread.
    """
    try:
        original("_thread", "start_new_thread")(function, ())
    except RuntimeError as daemon_refused:
        try:
            _start_joined_thread(function, on_exit)
        except RuntimeError as refused:
            raise WorkerError(
                f"no native thread can be started here ({refused}); "
                "set heartbeat_in_pthread=false or raise the process's thread limit"
            ) from daemon_refused


def _start_joined_thread(function: Callable[[], None], on_exit: Callable[[], None]) -> None:
    threading = original_module("threading")
    # Non-daemon threads are joined before ordinary atexit callbacks run; this
    # registry (the one concurrent.futures uses) is called before that join.
    threading._register_atexit(on_exit)
    threading.Thread(target=function, name="hbshim-heartbeat", daemon=False).start()
