"""Detects the event loops of asyncio that run in this process, and in which threads.

asyncio knows only the loop of the calling thread. So the stack of each thread is searched for the
functions of asyncio that run a loop. uvloop's own are compiled and in no stack, but a program runs
it with ``asyncio.run()`` or ``asyncio.Runner``, as uvicorn does. A loop of another thread whose
handler is deeper than what :func:`hbshim.runtime.stacks.stacks` returns is not found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hbshim.runtime.loaded import is_loaded, module_of, peek
from hbshim.runtime.stacks import Call, stacks
from hbshim.runtime.unpatched import get_ident

LoopKind = Literal["asyncio", "uvloop", "other"]


@dataclass(frozen=True)
class RunningLoop:
    """One event loop that runs.

    Attributes:
        kind: "asyncio" for asyncio's selector loop, "uvloop", or "other".
        thread: name of its thread; its number if it has none.
    """

    kind: LoopKind
    thread: str


@dataclass(frozen=True)
class LoopFacts:
    """The event loops of this process.

    Attributes:
        policy: class of the event loop policy that the program has set; "" for asyncio's default,
            or where asyncio is not loaded.
        running: the loops that run now.
    """

    policy: str = ""
    running: tuple[RunningLoop, ...] = ()


def kind_of(loop: object) -> LoopKind:
    """Return the kind of an event loop."""
    modules = {module_of(base) for base in type(loop).__mro__}
    if "uvloop.loop" in modules:
        return "uvloop"
    return "asyncio" if "asyncio.selector_events" in modules else "other"


def inspect_loops() -> LoopFacts:
    """Return the event loops of this process; imports nothing."""
    if not is_loaded("asyncio.events"):
        return LoopFacts()
    policy = peek("asyncio.events", "_event_loop_policy")
    name = "" if policy is None else f"{module_of(type(policy))}.{type(policy).__qualname__}"
    if module_of(type(policy)).startswith("asyncio."):
        name = ""  # asyncio makes its default one when it is first asked for
    return LoopFacts(name, tuple(_running()))


def thread_name(ident: int) -> str:
    """Return the name of a thread, or its number if it was not started by `threading`."""
    threads: dict[int, Any] = peek("threading", "_active", {})
    thread = threads.get(ident)
    return str(ident) if thread is None else str(thread.name)


def _running() -> list[RunningLoop]:
    kinds: dict[int, LoopKind] = {}
    for ident, calls in sorted(stacks().items()):
        kind = _kind_in(calls)
        if kind is not None:
            kinds[ident] = kind
    # That of this thread is known for certain, also a compiled one that its own method started.
    running = peek("asyncio.events", "_get_running_loop")
    loop = None if running is None else running()
    if loop is not None:
        kinds[get_ident()] = kind_of(loop)
    return [RunningLoop(kind, thread_name(ident)) for ident, kind in kinds.items()]


def _kind_in(calls: Sequence[Call]) -> LoopKind | None:
    """Return the kind of the loop that a thread runs, by its calls."""
    for call in calls:
        if call.function == "run_forever" and call.file.endswith("asyncio/base_events.py"):
            return "asyncio"
        if call.function == "run" and call.file.endswith("asyncio/runners.py"):
            return "uvloop" if is_loaded("uvloop") else None
    return None
