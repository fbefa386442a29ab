"""Removes the native pollers from `select` and `selectors`, so that green code waits greenly.

eventlet has only a green ``select.select``: code that finds ``epoll`` or ``poll`` waits in the
kernel and blocks the hub (pika chooses epoll whenever ``select`` has it). ``monkey_patch()``
removes these names itself when it patches `select`; this module is for programs that patch partly
or late, or that refer to the original modules. hbshim's own engine does not depend on it.

Names are removed, not objects: an existing poller works on. A module that imported its own
reference earlier keeps it; the report lists each of them.
"""

from __future__ import annotations

import contextlib
import importlib
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hbshim.runtime.captured import Captured, known_as, scan
from hbshim.runtime.changes import ABSENT, Change
from hbshim.runtime.exclusive import OCCUPIED, ExclusiveSection
from hbshim.runtime.fork import ProcessLocal
from hbshim.runtime.green import inspect_green
from hbshim.runtime.loaded import module_globals, peek
from hbshim.runtime.unpatched import allocate_reentrant_lock

__all__ = ["StripReport", "restore_polling", "strip_polling", "stripped_polling"]

#: What is removed, by the module it belongs to.
POLLERS = {
    "select": ("epoll", "poll", "kqueue", "devpoll"),
    "selectors": ("EpollSelector", "PollSelector", "KqueueSelector", "DevpollSelector"),
}


@dataclass(frozen=True)
class StripReport:
    """The result of one call of :func:`strip_polling`.

    Attributes:
        acted: stripping is in effect; False if there was no reason to strip.
        reason: one sentence.
        removed: names that this call removed, as "select.epoll"; empty if it was done before.
        replaced: names that this call gave a green or select-based object.
        captured: module globals that took a reference to a native poller earlier.
        select_is_green: waiting in ``select.select`` lets other greenlets run.
    """

    acted: bool
    reason: str
    removed: tuple[str, ...]
    replaced: tuple[str, ...]
    captured: tuple[Captured, ...]
    select_is_green: bool


class _State:
    """The callers that want the pollers removed, and the changes made for them.

    Every caller first notes what it wants, in one step, and then has the names adjusted. A call
    that finds another one at it, as a signal handler may, leaves that to the other one, which
    checks again at its end. So nothing waits for ever, and an interrupted call is completed by the
    next one.
    """

    def __init__(self) -> None:
        #: Before each change is made.
        self.changes: list[Change] = []
        self.called = False
        self.installed = False
        self.blocks: set[object] = set()
        #: What eventlet's green functions are to replace.
        self.green: dict[str, Any] = {}
        # Whether eventlet had patched `select` when the changes were made.
        self.select_patched = False

    @property
    def wanted(self) -> bool:
        return self.called or self.installed or bool(self.blocks)


_state = _State()

#: A thread of the parent may have been inside at a fork.
_adjusting: ProcessLocal[ExclusiveSection] = ProcessLocal(
    lambda: ExclusiveSection(allocate_reentrant_lock()), lambda _: None
)
# Before the program puts objects of its own in the place of modules.
_adjusting.get()

#: Seconds to wait for another thread that adjusts the names. A finalizer may have stopped it.
_WAIT = 5.0


def strip_polling(
    *, force: bool = False, green_select: bool = True, on_install: bool = False
) -> StripReport:
    """Remove the native pollers until :func:`restore_polling`; idempotent.

    ``selectors.DefaultSelector`` becomes ``SelectSelector``.

    Parameters:
        force: strip even if eventlet has patched nothing.
        green_select: if eventlet has patched something but not `select`, also install eventlet's
            green ``select``. Otherwise users of the pollers fall back to the native
            ``select.select``, which also blocks the hub, and refuses file descriptors above 1023.
        on_install: for :func:`hbshim.install`: :func:`hbshim.uninstall` undoes only its own
            stripping.
    """
    if not (force or _eventlet_rules()):
        return _nothing_to_do()
    if on_install:
        _state.installed = True
    else:
        _state.called = True
    return _strip(green_select)


def restore_polling(*, on_install: bool = False) -> tuple[str, ...]:
    """Restore what was removed; return the names, empty if there is nothing to do.

    Names that other code has changed since stay as they are, and all of them stay once eventlet
    itself has patched `select`. Inside a :func:`stripped_polling` block nothing is restored before
    the block ends.

    Parameters:
        on_install: see :func:`strip_polling`.
    """
    _state.installed = False
    if not on_install:
        _state.called = False
    return () if _state.wanted else tuple(sorted({str(change) for change in _adjust()}))


@contextlib.contextmanager
def stripped_polling(*, force: bool = False, green_select: bool = True) -> Iterator[StripReport]:
    """Call :func:`strip_polling` for the duration of a ``with`` block; blocks may overlap."""
    if not (force or _eventlet_rules()):
        yield _nothing_to_do()
        return
    block = object()
    try:
        _state.blocks.add(block)
        yield _strip(green_select)
    finally:
        _state.blocks.discard(block)
        if not _state.wanted:
            _adjust()


def _strip(green_select: bool) -> StripReport:
    # Both must exist before either is stripped: when it is imported, `selectors` defines only the
    # classes for which it finds pollers in `select`.
    for name in POLLERS:
        importlib.import_module(name)
    # Here, where nothing is held for which another import might wait.
    _state.green = _green_replacements() if green_select and _eventlet_rules() else {}
    changes = _adjust()
    return StripReport(
        acted=True,
        reason=(
            "eventlet has patched this process, and native pollers stop its hub."
            if _eventlet_rules()
            else "force=True was given, though eventlet has patched nothing."
        ),
        removed=tuple(str(change) for change in changes if change.after is ABSENT),
        replaced=tuple(str(change) for change in changes if change.after is not ABSENT),
        captured=scan(POLLERS),
        select_is_green=_select_is_green(),
    )


def _nothing_to_do() -> StripReport:
    return StripReport(
        acted=False,
        reason="eventlet has patched nothing, so native pollers do no harm and were left "
        "alone; force=True removes them all the same.",
        removed=(),
        replaced=(),
        captured=(),
        select_is_green=False,
    )


def _green_replacements() -> dict[str, Any]:
    # eventlet is loaded already, so importing its green modules changes nothing for the program;
    # eventlet made both objects for this purpose.
    return {
        f"{name}.{attribute}": getattr(importlib.import_module(f"eventlet.green.{name}"), attribute)
        for name, attribute in (("select", "select"), ("selectors", "SelectSelector"))
    }


def _changes_of(name: str, module: types.ModuleType, green: dict[str, Any]) -> list[Change]:
    present = module_globals(module)
    wanted = {attribute: ABSENT for attribute in POLLERS[name] if attribute in present}
    for attribute in ("select", "SelectSelector"):
        if attribute in present and f"{name}.{attribute}" in green:
            wanted[attribute] = green[f"{name}.{attribute}"]
    if name == "selectors":
        wanted["DefaultSelector"] = wanted.get("SelectSelector", present["SelectSelector"])
    return [
        Change(module, attribute, present[attribute], after)
        for attribute, after in wanted.items()
        if present[attribute] is not after
    ]


def _adjust() -> list[Change]:
    """Make or undo changes, as is wanted now; return those of this call."""
    done: list[Change] = []
    while True:
        wanted = _state.wanted
        work = _make_changes if wanted else _undo_changes
        made = _adjusting.get().run(work, _WAIT)
        if made is OCCUPIED:
            return done
        done += made
        # By a call that found this one at it.
        if _state.wanted == wanted:
            return done


def _make_changes() -> list[Change]:
    if not _state.changes:
        _state.select_patched = _eventlet_rules("select")
    changes = [
        change
        for name in POLLERS
        for module in known_as(name)
        for change in _changes_of(name, module, _state.green)
    ]
    for change in changes:
        # In this order: an interrupted one must be undone later.
        _state.changes.append(change)
        change.make()
    return changes


def _undo_changes() -> list[Change]:
    changes = _state.changes
    leave = _eventlet_rules("select") and not _state.select_patched
    restored = []
    # In reverse order: a name changed twice is restored only after the later change is undone.
    while changes:
        change = changes[-1]
        if not leave and change.stands():
            change.undo()
            restored.append(change)
        changes.pop()
    return restored


def _eventlet_rules(module: str | None = None) -> bool:
    patched = inspect_green().eventlet.patched
    return bool(patched) if module is None else module in patched


def _select_is_green() -> bool:
    green = peek("eventlet.green.select", "select", ABSENT)
    return peek("select", "select") is green
