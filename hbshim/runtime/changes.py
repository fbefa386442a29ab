"""A change of one name in a module, which is undone only if nothing has changed it since."""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Any

from hbshim.runtime.loaded import module_globals

#: Means "the module has no such name".
ABSENT = object()


@dataclass(frozen=True)
class Change:
    """Changes `module.name` from `before` to `after`; either may be :data:`ABSENT`."""

    module: types.ModuleType
    name: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.module.__name__}.{self.name}"

    def make(self) -> None:
        """Apply the change."""
        _set(self.module, self.name, self.after)

    def stands(self) -> bool:
        """Whether the name is still as :meth:`make` left it."""
        return module_globals(self.module).get(self.name, ABSENT) is self.after

    def undo(self) -> None:
        """Restore the name."""
        _set(self.module, self.name, self.before)


def _set(module: types.ModuleType, name: str, value: Any) -> None:
    if value is ABSENT:
        delattr(module, name)
    else:
        setattr(module, name, value)
