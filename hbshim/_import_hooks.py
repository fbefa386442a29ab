"""Calls a function when a module has been imported; imports nothing itself.

A client library may be imported by a module of hbshim, which needs that library and is
itself being imported. What is called then would find a part of hbshim: so it waits until
hbshim's own imports of this thread are complete. For that, the finder below also stands
before hbshim's modules.

There is no lock: a thread that waited for it might hold the lock of a module that another thread
waits for. So a function may be called more than once, by several threads at the same time.
"""

from __future__ import annotations

import importlib._bootstrap
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_OWN = "hbshim."
#: Needed in here, and without a client library.
_BENEATH = ("hbshim.runtime", "hbshim.errors")

_imported: dict[str, Callable[[], None]] = {}
_reloaded: dict[str, Callable[[], None]] = {}


class _Own:
    """The imports of hbshim's own modules that one thread has not finished."""

    def __init__(self) -> None:
        self.depth = 0
        self.deferred: list[tuple[str, Callable[[], None]]] = []


#: By process and thread, while there are any. A thread that a forked child does not have may have
#: been at it.
_own: dict[tuple[int, int], _Own] = {}


def when_imported(name: str, callback: Callable[[], None]) -> None:
    """Call `callback` when the module `name` has been imported; at once if it has been.

    If another thread is importing it, this call waits for that. An exception of `callback` becomes
    that of the import, and the next import calls it again.
    """
    # First: an import that begins from now on calls it.
    _imported[name] = callback
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    _wait_for_import(name)
    if sys.modules.get(name) is not None:
        callback()


def _wait_for_import(name: str) -> None:
    """Wait for another thread that imports the module `name`, as the import statement does."""
    # Also before the module is in sys.modules. Private: importlib offers only to import it.
    bootstrap: Any = importlib._bootstrap
    if name in getattr(bootstrap, "_module_locks", ()):
        bootstrap._lock_unlock_module(name)


def hand_over(callback: Callable[[], None]) -> bool:
    """Have another thread call `callback`, when it has completed its imports of hbshim's modules.

    Returns:
        False if no other thread imports any.
    """
    for thread in list(_own):  # not tuple(), which the garbage collector may interrupt
        own = _own.get(thread)
        if own is None or thread == _thread() or thread[0] != os.getpid():
            continue
        own.deferred.append(("", callback))
        if _own.get(thread) is not own:
            callback()  # it may have been too late for that thread
        return True
    return False


def when_reloaded(name: str, callback: Callable[[], None]) -> None:
    """Call `callback` each time ``importlib.reload()`` has executed the module `name` again."""
    _reloaded[name] = callback
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


class _Finder:
    """Finds what the other finders find, with a loader that notices the end of the import."""

    def __init__(self) -> None:
        self._finding: set[tuple[tuple[int, int], str]] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        # importlib.reload() names the module that is there.
        again = target is not None and name in _reloaded
        if name not in _imported and not again and not _is_own(name):
            return None
        key = _thread(), name
        if key in self._finding:
            return None  # another hook of this kind requests the spec
        self._finding.add(key)
        try:
            spec = self._ask_the_others(name, path, target)
        finally:
            self._finding.discard(key)
        if hasattr(getattr(spec, "loader", None), "exec_module"):
            spec.loader = _Loader(spec.loader, again)
        return spec

    def _ask_the_others(self, name: str, path: Any, target: Any) -> Any:
        for finder in list(sys.meta_path):
            find: Any = getattr(finder, "find_spec", None)
            if finder is not self and find is not None:
                spec = find(name, path, target)
                if spec is not None:
                    return spec
        return None


_finder: Any = _Finder()


class _Loader:
    """Wraps another loader until the module is executed."""

    def __init__(self, inner: Any, again: bool) -> None:
        self._inner = inner
        self._again = again

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def create_module(self, spec: Any) -> Any:
        create = getattr(self._inner, "create_module", None)
        return None if create is None else create(spec)

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self._inner
        name: str = module.__spec__.name
        if _is_own(name):
            _execute_own(self._inner, module)
            return
        self._inner.exec_module(module)
        if self._again:
            _reloaded[name]()
        callback, own = _imported.get(name), _own.get(_thread())
        if callback is None:
            return
        if own is None or not own.depth:  # interrupted before it began
            _call(name, callback)
        else:
            own.deferred.append((name, callback))


def _is_own(name: str) -> bool:
    return name.startswith(_OWN) and not name.startswith(_BENEATH)


def _execute_own(loader: Any, module: Any) -> None:
    thread = _thread()
    own = _own.setdefault(thread, _Own())
    own.depth += 1
    try:
        loader.exec_module(module)
    finally:
        own.depth -= 1
        if own.depth == 0:
            del _own[thread]
            for name, callback in own.deferred:
                _call(name, callback)


def _call(name: str, callback: Callable[[], None]) -> None:
    try:
        callback()
    except BaseException:
        # The next import executes it again.
        sys.modules.pop(name, None)
        raise


def _thread() -> tuple[int, int]:
    from hbshim.runtime.unpatched import get_ident

    return os.getpid(), get_ident()
