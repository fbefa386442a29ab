"""The report on this process: what is patched, the host, its event loops, the heartbeat worker.

It inspects and never imports (see ``loaded.py``), so that the detection does not change its result.
It may run again at any time, because a program may patch late or fork.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from typing import Any, Literal

from hbshim.options import WorkerName
from hbshim.runtime.choice import Choice, Facts, HubState, choose
from hbshim.runtime.green import GreenFacts, Patches, inspect_green
from hbshim.runtime.host import HostFacts, inspect_host
from hbshim.runtime.interpreter import inspect_interpreter
from hbshim.runtime.loops import LoopFacts, inspect_loops

# uWSGI and mod_wsgi fork in C, where os.register_at_fork may not run.
_PID_AT_IMPORT = os.getpid()


@dataclass(frozen=True)
class RuntimeReport(Facts):
    """What hbshim detected in this process, and what follows from it.

    Attributes:
        choice: the heartbeat worker, the reason, and a warning.
        loops: the event loops of asyncio.
    """

    choice: Choice
    loops: LoopFacts = field(default_factory=LoopFacts)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values that ``json.dumps`` accepts."""
        return dataclasses.asdict(self)

    def explain(self) -> list[str]:
        """Return the report as sentences for a reader, the conclusion last."""
        return [
            *_explain_green(self.green),
            _explain_host(self.host),
            _HUB_SENTENCES[self.hub],
            *_explain_loops(self.loops),
            self._explain_interpreter(),
            f"Heartbeats come from: {self.choice.worker}. {self.choice.reason}",
            *([f"Warning: {self.choice.warning}"] if self.choice.warning else []),
        ]

    def _explain_interpreter(self) -> str:
        facts = self.interpreter
        place = {True: "the main interpreter", False: "a sub-interpreter", None: "some interpreter"}
        notes = [
            f"Python {facts.python}, {place[facts.main]}",
            "daemon threads allowed" if facts.daemon_threads else "daemon threads forbidden",
        ]
        if facts.own_gil:
            notes.append("with a GIL of its own")
        if facts.free_threaded:
            notes.append(f"free-threaded build (GIL {'on' if facts.gil_enabled else 'off'})")
        if self.forked_since_import:
            notes.append("forked since hbshim was imported")
        return ", ".join(notes) + "."


def detect(
    heartbeat_in_pthread: bool | Literal["auto"] = "auto",
    worker: WorkerName | None = None,
    worker_late: bool = False,
) -> RuntimeReport:
    """Inspect this process; cheap, and without side effects.

    Parameters:
        heartbeat_in_pthread: the user's option, True, False or "auto".
        worker: the worker that the user forces, or None.
        worker_late: the engine measured that the hub is late.

    Raises:
        OptionError: an unknown value, or two options contradict each other.
    """
    facts, choice = _inspect(heartbeat_in_pthread, worker, worker_late)
    return RuntimeReport(
        facts.green,
        facts.host,
        facts.hub,
        facts.interpreter,
        facts.forked_since_import,
        choice,
        inspect_loops(),
    )


def choose_worker(
    heartbeat_in_pthread: bool | Literal["auto"], worker: WorkerName | None, worker_late: bool
) -> Choice:
    """Return the choice of :func:`detect` alone, in a time that does not depend on the threads.

    Raises:
        OptionError: as for :func:`detect`.
    """
    return _inspect(heartbeat_in_pthread, worker, worker_late)[1]


def _inspect(
    heartbeat_in_pthread: bool | Literal["auto"], worker: WorkerName | None, worker_late: bool
) -> tuple[Facts, Choice]:
    green = inspect_green()
    host = inspect_host()
    facts = Facts(
        green=green,
        host=host,
        hub=_hub_state(green, host),
        interpreter=inspect_interpreter(),
        forked_since_import=os.getpid() != _PID_AT_IMPORT,
    )
    return facts, choose(facts, heartbeat_in_pthread, worker, worker_late)


def _hub_state(green: GreenFacts, host: HostFacts) -> HubState:
    if green.library == "none":
        return "none"
    if green.library == "both" or host.hub == "unknown":
        return "unknown"
    # The hub of another library (eventlet's under a gevent worker) is not run by the host either.
    if host.hub not in (green.library, "program"):
        return "parked"
    return "runs" if green.sockets_green else "blocked"


_HUB_SENTENCES: dict[HubState, str] = {
    "none": "There is no hub.",
    "runs": "The hub runs between requests.",
    "parked": "The hub stands still between requests.",
    "blocked": "The hub stands still whenever the program waits in a native socket.",
    "unknown": "Nothing guarantees that the hub runs between requests.",
}


#: Names of event loops for a reader.
LOOP_NAMES = {"asyncio": "asyncio's own event loop", "uvloop": "uvloop", "other": "an event loop"}


def _explain_loops(loops: LoopFacts) -> list[str]:
    policy = [f"The event loop policy is {loops.policy}."] if loops.policy else []
    found = [f"{LOOP_NAMES[each.kind]} in thread {each.thread}" for each in loops.running]
    return [*policy, *([f"Running: {', '.join(found)}."] if found else [])]


def _explain_green(green: GreenFacts) -> list[str]:
    sentences = [
        _explain_patches(name, patches)
        for name, patches in (("eventlet", green.eventlet), ("gevent", green.gevent))
        if patches.loaded
    ]
    return sentences or ["Neither eventlet nor gevent is loaded."]


def _explain_patches(name: str, patches: Patches) -> str:
    title = f"{name} {patches.version or '(version unknown)'}"
    if not patches.patched:
        return f"{title} is loaded but has patched nothing."
    left = f"; left native: {', '.join(patches.missing)}" if patches.missing else ""
    return f"{title} has patched {', '.join(patches.patched)}{left}."


def _explain_host(host: HostFacts) -> str:
    if host.kind == "plain":
        return "The host is a plain program."
    notes = [f"The host is {host.kind} {host.version or '(version unknown)'}", f"{host.mode}"]
    if host.mpm:
        notes.append(f"Apache MPM {host.mpm}")
    if host.processes is not None:
        notes.append(f"processes: {host.processes}")
    if host.threads is not None:
        notes.append(f"threads each: {host.threads}")
    if host.lazy_apps is not None:
        notes.append(f"lazy-apps: {'on' if host.lazy_apps else 'off'}")
    return ", ".join(notes) + "."
