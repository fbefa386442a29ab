"""Look at what is loaded already; never import, never wake a lazy module.

Importing eventlet or gevent to find out whether they are used changes the
answer, and costs 118 ms. A plain ``getattr`` is not harmless either: lazy
modules (celery, werkzeug, ``importlib.util.LazyLoader``) import half their
package when an attribute is asked for.
"""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Iterable
from typing import Any


def module_globals(module: object) -> dict[str, Any]:
    """The names a module has defined so far; empty for what is not a real module.

    ``vars()`` would do, but a lazy module answers it by loading itself.
    """
    # isinstance() asks `__class__`, which a proxy may forge or compute.
    if not issubclass(type(module), types.ModuleType):
        return {}
    names: dict[str, Any] = object.__getattribute__(module, "__dict__")
    return names


def peek(module_name: str, attribute: str, default: Any = None) -> Any:
    """One attribute of a module that is loaded already, else `default`."""
    return module_globals(sys.modules.get(module_name)).get(attribute, default)


def module_of(kind: type) -> str:
    """The module that the class `kind` is from; "" where it does not say.

    Classes made without a module's globals, some of C extensions among them, have no
    ``__module__``.
    """
    try:
        return str(type.__getattribute__(kind, "__module__"))
    except Exception:
        return ""


def is_loaded(module_name: str) -> bool:
    """Whether the module is there; None in ``sys.modules`` means "import refused"."""
    return sys.modules.get(module_name) is not None


def subclasses_of(kinds: Iterable[type]) -> set[type]:
    """Return these classes and all that are derived from them."""
    classes = set(kinds)
    latest = set(classes)
    while latest:
        derived: set[type] = set()
        derived.update(*(type.__subclasses__(kind) for kind in latest))
        latest = derived - classes
        classes |= latest
    return classes


def instances_of(kinds: Iterable[type]) -> list[object]:
    """Return the live instances of these classes and their subclasses, proxies left out.

    Asks the garbage collector who refers to the classes, as every instance of a class written
    in Python does. Its list of all objects would do, but holds a reference to every tuple that
    another thread is about to build, and the building of a tuple that is referred to elsewhere
    fails with SystemError.
    """
    classes = subclasses_of(kinds)
    # type() and not isinstance(), which asks the object itself: a proxy would answer.
    return [each for each in gc.get_referrers(*classes) if type(each) in classes]
