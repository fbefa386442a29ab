"""Leaves an entry point to another distribution that has one of the same name.

oslo.messaging 14.9 has a driver ``amqp`` of its own, and stevedore refuses a name that two
distributions have. Its public ways belong to what makes the manager, which is oslo.messaging: the
argument `conflict_resolver` of newer versions, which oslo.messaging does not pass. An entry point
cannot give itself up. So :func:`give_way` has the manager that is loading both leave hbshim's out.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from types import FrameType
from typing import Any

from hbshim.errors import HbshimError


def is_taken(group: str, name: str) -> bool:
    """Return whether another distribution has this entry point, too."""
    return any(
        not each.value.startswith("hbshim.") for each in entry_points(group=group, name=name)
    )


def give_way(own: Any) -> None:
    """Have stevedore's manager, which is calling, load the other entry point.

    Parameters:
        own: hbshim's factory, which it is calling.

    Raises:
        HbshimError: no manager is calling, or it is not as expected.
    """
    manager = _manager(sys._getframe(1))
    choose = type(manager)._init_plugins

    def without_own(extensions: list[Any]) -> None:
        choose(manager, [each for each in extensions if each.plugin is not own])

    manager._init_plugins = without_own


def _manager(frame: FrameType | None) -> Any:
    while frame is not None:
        manager = frame.f_locals.get("self")
        if frame.f_code.co_name == "_load_one_plugin" and hasattr(manager, "_init_plugins"):
            return manager
        frame = frame.f_back
    raise HbshimError(
        "another distribution has an entry point of this name, and stevedore is not the one that "
        "hbshim knows; use the scheme hbamqp:// for hbshim's driver"
    )
