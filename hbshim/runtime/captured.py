"""Finds references in loaded modules: to modules, and to objects that were imported from them.

``from select import epoll`` works even after ``select.epoll`` was removed. The globals of every
loaded module are searched, because there is no other way to know.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hbshim.runtime.loaded import module_globals, module_of

# eventlet and gevent keep the originals for their own hubs, on purpose.
_KEEPERS = {"eventlet", "gevent"}
_KEPT = ("__original_module_", "__patched_module_")


@dataclass(frozen=True)
class Captured:
    """A reference that still exists after the removal of its name.

    Attributes:
        module: the module whose globals hold it.
        name: the global's name there.
        target: what it refers to, as "select.epoll".
    """

    module: str
    name: str
    target: str


def known_as(name: str) -> list[types.ModuleType]:
    """Return every reachable module object called `name`, the registered one first.

    Several exist if modules were swapped in ``sys.modules``, as ``eventlet.import_patched`` does; a
    module imported before refers to the other one.
    """
    found: dict[int, types.ModuleType] = {}
    registered = sys.modules.get(name)
    if isinstance(registered, types.ModuleType):
        found[id(registered)] = registered
    original = sys.modules.get(f"__original_module_{name}")
    for _, _, value in _globals_of_loaded_modules():
        if type(value) is not types.ModuleType or value is original:
            continue
        # eventlet's green module has a longer __name__ of its own.
        if module_globals(value).get("__name__") == name:
            found[id(value)] = value
    return list(found.values())


def scan(targets: Mapping[str, tuple[str, ...]]) -> tuple[Captured, ...]:
    """Return every global that refers to one of `targets` outside its own module.

    Parameters:
        targets: names of classes and functions, by the module that defines them.
    """
    found = []
    for module, name, value in _globals_of_loaded_modules():
        home, target = _birthplace(value) or ("", "")
        if module != home and target in targets.get(home, ()):
            found.append(Captured(module, name, f"{home}.{target}"))
    return tuple(found)


def _globals_of_loaded_modules() -> Iterator[tuple[str, str, Any]]:
    # Copies: another thread may import. list() of the items would allocate, and then the garbage
    # collector may let that thread run.
    for module_name, module in sys.modules.copy().items():
        module_name = str(module_name)  # a program may put anything there
        if module_name.partition(".")[0] in _KEEPERS or module_name.startswith(_KEPT):
            continue
        for name, value in module_globals(module).copy().items():
            yield module_name, name, value


def _birthplace(value: Any) -> tuple[str, str] | None:
    # By defining module and name, not by identity: a module that was swapped or reloaded has other
    # objects of the same name. Only real classes and C functions are examined, because a proxy
    # would import or compute its target.
    kind = type(value)
    if kind is types.BuiltinFunctionType:
        return str(value.__module__), str(value.__name__)
    if issubclass(kind, type):
        return module_of(value), str(type.__getattribute__(value, "__name__"))
    return None
