"""Native operating-system primitives, even if eventlet or gevent have patched the library.

After ``monkey_patch()`` even ``_thread.start_new_thread`` and ``_thread.allocate_lock`` are green:
an engine built on them would run inside the hub and stop with it. Only this module reads what is
behind the patches; nothing else in hbshim imports ``threading`` or ``_thread``.

The lookup happens at each call of a factory, never at import: the program may patch before or
after it imports hbshim.
"""

from __future__ import annotations

import contextlib
import importlib
import signal
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from hbshim.errors import WorkerError
from hbshim.runtime.interpreter import inspect_interpreter

#: Seconds that the end of a sub-interpreter waits for a thread in it.
JOIN_WITHIN = 10.0

#: Signals that report a fault of the running thread itself. They stay unblocked, so that
#: handlers such as those of `faulthandler` also report a crash in a thread of hbshim.
_FAULTS = ("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP")


class NativeLock(Protocol):
    """The type of ``_thread``'s locks: a lock of the operating system."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
    def release(self) -> None: ...
    def locked(self) -> bool: ...
    def _at_fork_reinit(self) -> None: ...
    def __enter__(self) -> bool: ...
    def __exit__(self, *exc_info: object) -> None: ...


def original_module(name: str) -> types.ModuleType:
    """Return the module `name` as it was before eventlet patched it.

    eventlet patches in place and keeps an unpatched copy; if eventlet is not loaded, or has not
    patched `name`, the module itself is the original.
    """
    patcher = sys.modules.get("eventlet.patcher")
    module = __import__(name) if patcher is None else patcher.original(name)
    assert isinstance(module, types.ModuleType)
    return module


def original(module_name: str, attribute: str) -> Any:
    """Return one unpatched attribute, from gevent, then eventlet, then the module itself."""
    gevent_monkey = sys.modules.get("gevent.monkey")
    # gevent returns the current object if it has not patched it, which may be eventlet's: use it
    # only where it did patch.
    if gevent_monkey is not None and gevent_monkey.is_object_patched(module_name, attribute):
        return gevent_monkey.get_original(module_name, attribute)
    return getattr(original_module(module_name), attribute)


def allocate_lock() -> NativeLock:
    """Return a native lock: it blocks the operating-system thread, never a greenlet."""
    lock: NativeLock = original("_thread", "allocate_lock")()
    return lock


def allocate_reentrant_lock() -> NativeLock:
    """A native lock that its own operating-system thread may take again.

    Keep it in a slot: an eventlet that patches later walks all it reaches from
    ``sys.modules`` through dicts, lists and ``__dict__``, and puts a green lock in
    the place of each one of these.
    """
    lock: NativeLock = original("_thread", "RLock")()
    return lock


class HiddenLock:
    """A native lock that its own operating-system thread may take again, in a slot.

    For a few statements that never wait: ``with hidden.native:``. A signal handler may run among
    them, in the same thread, and call what takes the lock again.
    """

    __slots__ = ("native",)

    def __init__(self) -> None:
        self.native = allocate_reentrant_lock()


def get_ident() -> int:
    """Identity of the operating-system thread, not of the greenlet."""
    ident: int = original("_thread", "get_ident")()
    return ident


def get_native_id() -> int:
    """The operating system's own id of this thread (the TID on Linux)."""
    native_id: int = original("_thread", "get_native_id")()
    return native_id


def start_native_thread(function: Callable[[], None], on_exit: Callable[[], None]) -> None:
    """Run `function` in a new operating-system thread that receives no signals.

    Parameters:
        function: called once, without arguments; it must not raise.
        on_exit: makes `function` return soon. Called when a sub-interpreter ends,
            which its threads must not outlive; the main interpreter lets them.

    Raises:
        WorkerError: the process cannot start another thread.
    """
    start = _start_raw_thread if inspect_interpreter().main is not False else _start_joined_thread
    try:
        with signals_blocked():
            start(function, on_exit)
    except RuntimeError as refused:
        raise WorkerError(
            f"no native thread can be started here ({refused}); "
            "set heartbeat_in_pthread=false or raise the process's thread limit"
        ) from None


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Block all signals in the calling thread; a thread that is started here keeps them blocked.

    The kernel delivers a signal to any thread that does not block it. Without this, a
    program that blocks a signal in its only thread would get it in a thread of hbshim.
    Only for threads that run no code of the application: a child process that is started
    from such a thread would inherit the blocked signals.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    blocked = signal.valid_signals() - {getattr(signal, name, None) for name in _FAULTS}
    # First: a Python signal handler may raise from any of these calls after the mask is set.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def blocked_signals() -> set[int]:
    """Return the signals that the calling thread blocks."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        return set()
    return {int(each) for each in signal.pthread_sigmask(signal.SIG_BLOCK, ())}


def block_signals(blocked: set[int]) -> None:
    """Have the calling thread block these signals, and no others."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def threads_are_green() -> bool:
    """Whether a thread of ``threading`` is a green one, in the thread that starts it."""
    return not isinstance(sys.modules["_thread"].start_new_thread, types.BuiltinFunctionType)


def start_without_signals(start: Callable[[], None]) -> None:
    """Start a thread of the program's own kind, which receives no signals if it is a native one.

    A green thread runs in the thread that starts it, which must go on receiving signals. Its
    start may switch to other green threads: one that blocked signals meanwhile, as another one
    does, would leave them blocked for the whole program.

    Parameters:
        start: ``Thread.start``.

    Raises:
        RuntimeError: no thread can be started.
    """
    if threads_are_green():
        start()
        return
    with signals_blocked():
        start()


def _start_raw_thread(function: Callable[[], None], _on_exit: Callable[[], None]) -> None:
    original("_thread", "start_new_thread")(function, ())


def _start_joined_thread(function: Callable[[], None], on_exit: Callable[[], None]) -> None:
    gevent_monkey = sys.modules.get("gevent.monkey")
    if gevent_monkey is not None and gevent_monkey.is_object_patched("_thread", "start_new_thread"):
        # gevent keeps no unpatched copy of `threading`: this thread would be a green one.
        raise RuntimeError("gevent has patched this sub-interpreter")
    # mod_wsgi runs applications in sub-interpreters. Ending one with a thread still
    # in it is a fatal error of the whole process, and one with a GIL of its own
    # refuses daemon threads, so the thread is stopped and joined first.
    thread = original_module("threading").Thread(
        target=function, name="hbshim-heartbeat", daemon=False
    )

    def stop_and_join() -> None:
        on_exit()
        thread.join(JOIN_WITHIN)

    # The end of an interpreter calls `_shutdown` of the module named `threading`,
    # patched or not. It joins threads before ordinary atexit callbacks run; those
    # registered here (as concurrent.futures does) come before that join.
    importlib.import_module("threading")._register_atexit(stop_and_join)
    thread.start()
