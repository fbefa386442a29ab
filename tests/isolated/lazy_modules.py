"""Neither looking nor scanning wakes a module that waits to be loaded, nor a proxy."""

from __future__ import annotations

import importlib.util
import sys
import types
from typing import Any, NoReturn

from hbshim.runtime.detect import detect
from hbshim.runtime.polling import strip_polling

touched: list[Any] = []


class Loud(types.ModuleType):
    def __getattr__(self, name: str) -> NoReturn:
        touched.append(name)
        raise AttributeError(name)


class Proxy:
    def __getattribute__(self, name: str) -> Any:
        touched.append(name)
        return object.__getattribute__(self, name)


spec = importlib.util.find_spec("fractions")
assert spec is not None
assert spec.loader is not None
spec.loader = importlib.util.LazyLoader(spec.loader)
lazy = importlib.util.module_from_spec(spec)
sys.modules["fractions"] = lazy
spec.loader.exec_module(lazy)

for name in ("eventlet", "gevent.monkey", "mod_wsgi", "uwsgi", "celery", "loud"):
    sys.modules[name] = Loud(name)
sys.modules["proxy"] = Proxy()  # type: ignore[assignment]
holder = types.ModuleType("holder")
vars(holder)["proxy"] = Proxy()
sys.modules["holder"] = holder

detect()
assert strip_polling(force=True).acted
assert touched == []
assert "Fraction" not in object.__getattribute__(lazy, "__dict__")

print("pass")
