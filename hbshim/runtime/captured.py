"""Find what loaded modules hold on to: module objects, and objects taken out of them.

``from select import epoll`` keeps working after ``select.epoll`` is gone. The only
way to know is to look through the globals of every loaded module.
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
    """A reference that outlives the removal of its name.

    Attributes:
        module: the module whose globals hold it.
        name: the global's name there.
        target: what it refers to, as "select.epoll".
    """

    module: str
    name: str
    target: str


def known_as(name: str) -> list[types.ModuleType]:
    """Every module object called `name` that the program can reach, the registered one first.

    More than one exists where modules were swapped in ``sys.modules``, as
    ``eventlet.import_patched`` does; a module imported before holds the other one.
    """
    found: dict[int, types.ModuleType] = {}
    registered = sys.modules.get(name)
    if isinstance(registered, types.ModuleType):
        found[id(registered)] = registered
    original = sys.modules.get(f"__original_module_{name}")
    for _, _, value in _globals_of_loaded_modules():
        if type(value) is not types.ModuleType or value is original:
            continue
        # eventlet's green stand-in has a longer __name__ of its own.
        if module_globals(value).get("__name__") == name:
            found[id(value)] = value
    return list(found.values())


def scan(targets: Mapping[str, tuple[str, ...]]) -> tuple[Captured, ...]:
    """Every global that refers to one of `targets` outside the module it belongs to.

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
    for module_name, module in list(sys.modules.items()):
        module_name = str(module_name)  # a program may put anything there
        if module_name.partition(".")[0] in _KEEPERS or module_name.startswith(_KEPT):
            continue
        for name, value in list(module_globals(module).items()):
            yield module_name, name, value


def _birthplace(value: Any) -> tuple[str, str] | None:
    # By birth certificate, not by identity: a module that was swapped or reloaded
    # has other objects of the same name. Only real classes and C functions are
    # asked, for a proxy would answer by importing or computing what it stands for.
    kind = type(value)
    if kind is types.BuiltinFunctionType:
        return str(value.__module__), str(value.__name__)
    if issubclass(kind, type):
        return module_of(value), str(type.__getattribute__(value, "__name__"))
    return None
