"""Detects which library patched which modules of the standard library.

That a library is in ``sys.modules`` proves little: ``import oslo_messaging`` always imports
eventlet. So the loaded library's own record of its patches is read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from hbshim.runtime.loaded import is_loaded, peek

Extent = Literal["none", "partly", "full"]
GreenLibrary = Literal["none", "eventlet", "gevent", "both"]

# What decides whether a program is cooperative; "full" means all of these.
CORE = ("os", "select", "socket", "thread", "time")

# eventlet's own names for what it patches (its monkey_patch() keywords).
_EVENTLET_NAMES = (*CORE, "subprocess", "builtins", "psycopg", "MySQLdb")

# gevent records single attributes, and a partial patch (for example of DNS alone) marks the
# whole module; so one telling attribute of each module is asked about.
_GEVENT_ATTRIBUTES = {
    "os": ("os", "fork"),
    "select": ("select", "select"),
    "socket": ("socket", "socket"),
    "thread": ("_thread", "start_new_thread"),
    "time": ("time", "sleep"),
    "subprocess": ("subprocess", "Popen"),
    "ssl": ("ssl", "SSLContext"),
    "signal": ("signal", "signal"),
}

# eventlet's documented default of EVENTLET_THREADPOOL_SIZE.
_TPOOL_DEFAULT_THREADS = 20


@dataclass(frozen=True)
class Patches:
    """What one library has patched in this process.

    Attributes:
        loaded: the library is imported, which proves nothing by itself.
        version: its version; None if it is not loaded.
        extent: "full" if every module of :data:`CORE` is patched.
        patched: the patched modules, by eventlet's names for them.
        missing: the modules of :data:`CORE` that are still native; empty unless "partly".
    """

    loaded: bool
    version: str | None
    extent: Extent
    patched: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class GreenFacts:
    """The green library, if any, that is in use in this process.

    Attributes:
        library: the one that has patched something; "both" is a conflict.
        extent: how much that library has patched; the larger extent for "both".
        sockets_green: waiting for the broker lets other greenlets run.
        tpool_threads: size of the native thread pool of the library, eventlet's unless only gevent
            has patched; 0 without a library.
        contested: modules that both libraries have patched.
    """

    library: GreenLibrary
    extent: Extent
    eventlet: Patches
    gevent: Patches
    sockets_green: bool
    tpool_threads: int
    contested: tuple[str, ...]


def inspect_green() -> GreenFacts:
    """Read what the loaded libraries have patched so far."""
    eventlet = _patches("eventlet", _eventlet_patched())
    gevent = _patches("gevent", _gevent_patched())
    library: GreenLibrary = "none"
    if eventlet.patched and gevent.patched:
        library = "both"
    elif eventlet.patched:
        library = "eventlet"
    elif gevent.patched:
        library = "gevent"
    extents: set[Extent] = {eventlet.extent, gevent.extent}
    return GreenFacts(
        library=library,
        extent="full" if "full" in extents else "partly" if "partly" in extents else "none",
        eventlet=eventlet,
        gevent=gevent,
        sockets_green="socket" in eventlet.patched or "socket" in gevent.patched,
        tpool_threads=_pool_threads(library, eventlet, gevent),
        contested=tuple(name for name in eventlet.patched if name in gevent.patched),
    )


def _eventlet_patched() -> tuple[str, ...]:
    # Absent while eventlet.patcher itself is still being imported.
    is_patched = peek("eventlet.patcher", "is_monkey_patched")
    if is_patched is None:
        return ()
    return tuple(name for name in _EVENTLET_NAMES if is_patched(name))


def _gevent_patched() -> tuple[str, ...]:
    is_patched = peek("gevent.monkey", "is_object_patched")
    if is_patched is None:
        return ()
    return tuple(name for name, place in _GEVENT_ATTRIBUTES.items() if is_patched(*place))


def _patches(library: str, patched: tuple[str, ...]) -> Patches:
    missing = tuple(name for name in CORE if name not in patched)
    version = peek(library, "__version__")
    return Patches(
        loaded=is_loaded(library),
        version=None if version is None else str(version),
        extent="none" if not patched else "partly" if missing else "full",
        patched=patched,
        missing=missing if patched else (),
    )


def _pool_threads(library: GreenLibrary, eventlet: Patches, gevent: Patches) -> int:
    if gevent.loaded and (library == "gevent" or not eventlet.loaded):
        # What the program may set before its hub makes the pool; 0 while gevent is
        # still being imported.
        return int(getattr(peek("gevent.hub", "Hub"), "threadpool_size", 0))
    return _tpool_threads() if eventlet.loaded else 0


def _tpool_threads() -> int:
    # eventlet reads the variable when `eventlet.tpool` is imported; a value it
    # cannot parse stops that import, so there is no pool then.
    try:
        return int(os.environ.get("EVENTLET_THREADPOOL_SIZE", _TPOOL_DEFAULT_THREADS))
    except ValueError:
        return 0
