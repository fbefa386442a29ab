"""Public names of a package, each loaded at its first use.

It imports nothing that an interpreter has not imported at its start: ``import hbshim`` must cost a
program almost nothing.
"""

from __future__ import annotations

import importlib
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the functions ``__getattr__`` and ``__dir__`` of `package` (PEP 562).

    Parameters:
        package: the name of the package, whose ``__init__`` calls this.
        homes: the module that defines each public name. A name whose module is the submodule
            of that name stands for the submodule itself.
    """
    namespace = vars(sys.modules[package])

    def get(name: str) -> Any:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(home)
        value = module if home == f"{package}.{name}" else getattr(module, name)
        namespace[name] = value
        return value

    def names() -> list[str]:
        # Names of the import system and the interpreter, without helpers.
        return sorted({*homes, *(name for name in namespace if name.startswith("__"))})

    return get, names
