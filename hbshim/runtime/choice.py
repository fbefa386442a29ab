"""The choice of the heartbeat worker: the user's, otherwise that of a table.

:data:`RULE` has one row for each situation; the rows do not overlap and leave no gap, and a test
checks every combination. :data:`CAUTIONS` lists where a worker is known to fail, with the remedy.
These sentences are reported with a worker that the user forces, and with the rule's own choice if
every worker has a flaw. ``docs/detection.md`` shows both tables.

In doubt the choice is a native thread: it needs nothing from the hub, and the engine never drains
the client's sockets from it, which made earlier attempts at native heartbeats fail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from hbshim.options import Options, WorkerName
from hbshim.runtime.green import GreenFacts, GreenLibrary
from hbshim.runtime.host import HostFacts
from hbshim.runtime.interpreter import InterpreterFacts

__all__ = ["CAUTIONS", "RULE", "Choice", "Facts", "HubState", "WorkerName", "choose"]

HubState = Literal["none", "runs", "parked", "blocked", "unknown"]


@dataclass(frozen=True)
class Facts:
    """What was found in this process.

    Attributes:
        hub: "none": nothing is patched; "runs" between requests; "parked" by the
            host until the next request; "blocked" by the program's own native
            sockets at each wait; "unknown": nothing guarantees that it runs.
        forked_since_import: this process is a child of the one that imported hbshim.
    """

    green: GreenFacts
    host: HostFacts
    hub: HubState
    interpreter: InterpreterFacts
    forked_since_import: bool

    @property
    def tpool_has_free_thread(self) -> bool:
        """Whether a green library is in use and its native pool has a spare thread."""
        # An iteration may run at any time: the pool needs another thread for the program, and
        # eventlet's pool of size 0 runs its jobs in the hub.
        return self.green.library in ("eventlet", "gevent") and self.green.tpool_threads >= 2


@dataclass(frozen=True, kw_only=True)
class Row:
    """One situation; None in a column accepts every value.

    Attributes:
        patched_by: the libraries that have patched something.
        hub: states of the hub between requests.
        worker_late: the running engine measured that the green worker is late.
        tpool: the native thread pool of the green library has a spare thread.
    """

    patched_by: frozenset[GreenLibrary]
    hub: frozenset[HubState] | None = None
    worker_late: bool | None = None
    tpool: bool | None = None
    worker: WorkerName
    reason: str

    def fits(self, patched_by: GreenLibrary, hub: HubState, worker_late: bool, tpool: bool) -> bool:
        """Return whether this row applies to the given situation."""
        return (
            patched_by in self.patched_by
            and (self.hub is None or hub in self.hub)
            and (self.worker_late is None or worker_late == self.worker_late)
            and (self.tpool is None or tpool == self.tpool)
        )


_ONE: frozenset[GreenLibrary] = frozenset({"eventlet", "gevent"})
_RUNS: frozenset[HubState] = frozenset({"runs"})

RULE: tuple[Row, ...] = (
    Row(
        patched_by=frozenset({"none"}),
        worker="pthread",
        reason="Nothing is patched, so a native thread runs independently of the program.",
    ),
    Row(
        patched_by=frozenset({"both"}),
        worker="pthread",
        reason="Both eventlet and gevent have patched this process, so neither hub can be "
        "relied on and only a native thread is sure to run.",
    ),
    Row(
        patched_by=_ONE,
        hub=frozenset({"parked"}),
        worker="pthread",
        reason="The host leaves the hub parked between requests, so a green thread would not "
        "run in time; a native one does.",
    ),
    Row(
        patched_by=_ONE,
        hub=frozenset({"blocked"}),
        worker="pthread",
        reason="The sockets are not patched, so every wait for the broker stops the hub; "
        "a native thread runs meanwhile.",
    ),
    Row(
        patched_by=_ONE,
        # "none" cannot occur with a patching library; listed so that no gap is left.
        hub=frozenset({"unknown", "none"}),
        worker="pthread",
        reason="Nothing guarantees that the hub runs between requests here, and a native "
        "thread does not need it.",
    ),
    Row(
        patched_by=_ONE,
        hub=_RUNS,
        worker_late=False,
        worker="greenthread",
        reason="The program is green and its hub runs between requests, so a green thread "
        "sends heartbeats in time.",
    ),
    Row(
        patched_by=_ONE,
        hub=_RUNS,
        worker_late=True,
        tpool=True,
        worker="tpool",
        reason="The hub runs but was measured late, so the library's native thread "
        "pool sends the heartbeats.",
    ),
    Row(
        patched_by=_ONE,
        hub=_RUNS,
        worker_late=True,
        tpool=False,
        worker="pthread",
        reason="The hub runs but was measured late, and the library's thread pool "
        "has no free thread, so a native thread sends the heartbeats.",
    ),
)


def row_for(facts: Facts, worker_late: bool) -> Row:
    """Return the row of :data:`RULE` that applies to this process."""
    situation = (facts.green.library, facts.hub, worker_late, facts.tpool_has_free_thread)
    return next(row for row in RULE if row.fits(*situation))


@dataclass(frozen=True)
class Caution:
    """A situation in which a worker is known to fail, and the remedy.

    Attributes:
        workers: the workers that it applies to.
        applies: returns whether it applies to this process, given the facts and worker_late.
        text: one sentence with the remedy.
    """

    workers: frozenset[WorkerName]
    applies: Callable[[Facts, bool], bool]
    text: str


_NEEDS_HUB: frozenset[WorkerName] = frozenset({"greenthread", "tpool"})
_NEEDS_THREAD: frozenset[WorkerName] = frozenset({"pthread", "tpool"})
_ANY: frozenset[WorkerName] = _NEEDS_HUB | _NEEDS_THREAD

CAUTIONS: tuple[Caution, ...] = (
    Caution(
        _NEEDS_THREAD,
        lambda facts, late: not facts.host.threads_run,
        "uWSGI runs without --enable-threads, so Python threads stand still between "
        "requests and the broker will close idle connections: start uWSGI with "
        "--enable-threads or --threads N, or use uWSGI 2.0.27 or later.",
    ),
    Caution(
        _NEEDS_THREAD,
        lambda facts, late: not facts.interpreter.daemon_threads,
        "This sub-interpreter has its own GIL and forbids daemon threads, so the "
        "heartbeat thread must be stopped and joined when the interpreter ends: set "
        "'WSGIPerInterpreterGIL Off' or 'WSGIApplicationGroup %{GLOBAL}' in Apache if "
        "shutdown hangs.",
    ),
    Caution(
        _NEEDS_HUB,
        lambda facts, late: facts.hub == "parked",
        "The host parks the hub between requests; neither a green thread nor a tpool "
        "job submitted from one runs then, and the broker will close idle connections: "
        "set heartbeat_in_pthread to true or auto.",
    ),
    Caution(
        _NEEDS_HUB,
        lambda facts, late: facts.hub == "blocked",
        "The sockets are not patched, so the hub stops whenever the program waits for "
        "the broker: patch the sockets too, or set heartbeat_in_pthread to true or auto.",
    ),
    Caution(
        _NEEDS_HUB,
        lambda facts, late: facts.hub == "unknown",
        "Nothing guarantees that the hub runs between requests here: set heartbeat_in_pthread to "
        "true or auto, unless heartbeats are seen to arrive in time.",
    ),
    Caution(
        frozenset({"greenthread"}),
        lambda facts, late: late,
        "The hub was measured late, so heartbeats from a green thread will be late too: "
        "set heartbeat_in_pthread to true or auto.",
    ),
    Caution(
        _NEEDS_HUB,
        lambda facts, late: facts.hub == "none",
        "Nothing is patched, so no hub is known to run a green thread: call "
        "monkey_patch() first, or set worker to pthread or auto.",
    ),
    Caution(
        frozenset({"tpool"}),
        lambda facts, late: not (facts.green.eventlet.loaded or facts.green.gevent.loaded),
        "tpool is the native thread pool of eventlet or gevent and neither is loaded: set "
        "worker to pthread or auto.",
    ),
    Caution(
        frozenset({"tpool"}),
        lambda facts, late: facts.green.library == "eventlet" and not facts.tpool_has_free_thread,
        "eventlet's thread pool has no thread to spare for the heartbeat: raise "
        "EVENTLET_THREADPOOL_SIZE to 2 or more, or set worker to pthread or auto.",
    ),
    Caution(
        frozenset({"tpool"}),
        lambda facts, late: facts.green.library == "gevent" and not facts.tpool_has_free_thread,
        "gevent's thread pool has no thread to spare for the heartbeat: set "
        "gevent.hub.Hub.threadpool_size to 2 or more before the hub starts, or set worker "
        "to pthread or auto.",
    ),
    Caution(
        _ANY,
        lambda facts, late: facts.green.library == "both",
        "eventlet and gevent have both patched this process and undo each other's "
        "work: patch with one of them only.",
    ),
)


def cautions_about(worker: WorkerName, facts: Facts, worker_late: bool) -> list[str]:
    """Return the sentences that apply to `worker` in this process."""
    return [
        caution.text
        for caution in CAUTIONS
        if worker in caution.workers and caution.applies(facts, worker_late)
    ]


@dataclass(frozen=True)
class Choice:
    """The heartbeat worker for this process.

    Attributes:
        worker: "pthread", "greenthread" or "tpool".
        reason: one sentence.
        warning: how this worker is known to fail here, and the remedy; or None.
    """

    worker: WorkerName
    reason: str
    warning: str | None


def choose(
    report_facts: Facts,
    heartbeat_in_pthread: bool | Literal["auto"] = "auto",
    worker: WorkerName | None = None,
    worker_late: bool = False,
) -> Choice:
    """Choose the heartbeat worker; the user's choice takes precedence.

    Parameters:
        report_facts: what was found in this process.
        heartbeat_in_pthread: True for a native thread, False for the program's own
            green threads, "auto" for the rule.
        worker: forces one worker; None leaves the choice to `heartbeat_in_pthread`.
        worker_late: the engine measured that the hub is late.

    Raises:
        OptionError: an unknown value, or `worker` contradicts `heartbeat_in_pthread`.
    """
    options = Options(
        heartbeat_in_pthread=heartbeat_in_pthread, worker="auto" if worker is None else worker
    )
    chosen, reason = _decide(report_facts, options, worker_late)
    warnings = cautions_about(chosen, report_facts, worker_late)
    if options.heartbeat_in_pthread is False and chosen == "pthread":
        warnings.insert(
            0,
            "heartbeat_in_pthread=false asks for a green thread, but nothing is patched, so "
            "there is none and a native thread sends the heartbeats: leave the option at auto.",
        )
    return Choice(worker=chosen, reason=reason, warning=" ".join(warnings) or None)


def _decide(facts: Facts, options: Options, worker_late: bool) -> tuple[WorkerName, str]:
    if options.forced_worker is not None:
        return options.forced_worker, f"The option worker={options.forced_worker} is set."
    if options.heartbeat_in_pthread is True:
        return "pthread", "The option heartbeat_in_pthread=true is set."
    if options.heartbeat_in_pthread is False and facts.green.library != "none":
        return "greenthread", "The option heartbeat_in_pthread=false is set."
    row = row_for(facts, worker_late)
    return row.worker, row.reason
