"""Inspects what is loaded already; never imports, and never triggers a lazy module.

Importing eventlet or gevent to find out whether they are used would change the result, and takes
118 ms. A plain ``getattr`` is not harmless either: lazy modules (celery, werkzeug,
``importlib.util.LazyLoader``) import half their package when an attribute is read.
"""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Iterable
from typing import Any


def module_globals(module: object) -> dict[str, Any]:
    """Return the names that a module has defined so far; empty for anything but a real module.

    ``vars()`` is not used, because a lazy module then loads itself.
    """
    # isinstance() reads `__class__`, which a proxy may fake or compute.
    if not issubclass(type(module), types.ModuleType):
        return {}
    names: dict[str, Any] = object.__getattribute__(module, "__dict__")
    return names


def peek(module_name: str, attribute: str, default: Any = None) -> Any:
    """Return one attribute of a module that is loaded already, else `default`."""
    return module_globals(sys.modules.get(module_name)).get(attribute, default)


def module_of(kind: type) -> str:
    """Return the module of the class `kind`; "" if it is unknown.

    Classes made without a module's globals, some of C extensions among them, have no
    ``__module__``.
    """
    try:
        return str(type.__getattribute__(kind, "__module__"))
    except Exception:
        return ""


def is_loaded(module_name: str) -> bool:
    """Return whether the module is loaded; None in ``sys.modules`` means "import refused"."""
    return sys.modules.get(module_name) is not None


def subclasses_of(kinds: Iterable[type]) -> set[type]:
    """Return these classes and all their subclasses."""
    classes = set(kinds)
    latest = set(classes)
    while latest:
        derived: set[type] = set()
        derived.update(*(type.__subclasses__(kind) for kind in latest))
        latest = derived - classes
        classes |= latest
    return classes


def instances_of(kinds: Iterable[type]) -> list[object]:
    """Return the existing instances of these classes and their subclasses, without proxies.

    It reads the garbage collector's list of referrers of the classes, in which every instance of a
    class written in Python is. The list of all objects is not used: it holds a reference to every
    tuple that another thread is building, which then fails with SystemError.
    """
    classes = subclasses_of(kinds)
    # type() and not isinstance(), which calls the object itself: a proxy would answer.
    return [each for each in gc.get_referrers(*classes) if type(each) in classes]
