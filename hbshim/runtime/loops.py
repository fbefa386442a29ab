"""Detects the event loops of asyncio that run in this process, and in which threads.

asyncio knows only the loop of the calling thread. So the stack of each thread is searched for the
functions of asyncio that run a loop: some microseconds for a thread. uvloop's own are compiled and
in no stack, but a program runs it with ``asyncio.run()`` or ``asyncio.Runner``, as uvicorn does.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal

from hbshim.runtime.loaded import is_loaded, module_of, peek

LoopKind = Literal["asyncio", "uvloop", "other"]

#: Deeper stacks are not searched: a loop runs near the beginning, and a stack is followed from its
#: end, so this is also the limit for what the program calls inside of the loop.
_DEPTH = 500


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
    found = []
    for ident, frame in sorted(sys._current_frames().items()):
        loop = _loop_of(frame)
        if loop is not None:
            found.append(RunningLoop(kind_of(loop), thread_name(ident)))
    if not found:
        # A compiled loop that was started by its own method, in this thread.
        running = peek("asyncio.events", "_get_running_loop")
        loop = None if running is None else running()
        if loop is not None:
            ident = peek("_thread", "get_ident")()
            found.append(RunningLoop(kind_of(loop), thread_name(ident)))
    return found


def _loop_of(frame: FrameType | None) -> object | None:
    """Return the loop that the thread of `frame` runs."""
    for _ in range(_DEPTH):
        if frame is None:
            return None
        where = frame.f_globals.get("__name__"), frame.f_code.co_name
        if where == ("asyncio.base_events", "run_forever"):
            return _still_open(frame.f_locals.get("self"))
        if where == ("asyncio.runners", "run"):
            local = frame.f_locals
            # Python 3.11 and later have a Runner, 3.10 has the loop itself.
            runner = local.get("self")
            return _still_open(local.get("loop") or getattr(runner, "_loop", None))
        frame = frame.f_back
    return None


def _still_open(loop: Any) -> object | None:
    return loop if loop is not None and loop.is_running() else None
