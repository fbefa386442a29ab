"""Where a heartbeat worker is known to fail, and the remedy.

What a user asks for wins over the rule; these sentences then go with it. Some
apply to the rule's own choice too, where no worker is without a flaw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hbshim.options import WorkerName
from hbshim.runtime.facts import Facts


@dataclass(frozen=True)
class Caution:
    """A worker that is known to fail somewhere, and the remedy.

    Attributes:
        workers: the workers it is about.
        applies: whether this process is such a place; given the facts and ticks_late.
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
        "Nothing promises that the hub runs between requests here: set "
        "heartbeat_in_pthread to true or auto unless beats are seen to arrive in time.",
    ),
    Caution(
        frozenset({"greenthread"}),
        lambda facts, late: late,
        "The hub's ticks were measured late, so green beats will be late too: set "
        "heartbeat_in_pthread to true or auto.",
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
        lambda facts, late: facts.green.library == "eventlet" and not facts.tpool_has_room,
        "eventlet's thread pool has no thread to spare for the heartbeat: raise "
        "EVENTLET_THREADPOOL_SIZE to 2 or more, or set worker to pthread or auto.",
    ),
    Caution(
        frozenset({"tpool"}),
        lambda facts, late: facts.green.library == "gevent" and not facts.tpool_has_room,
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


def cautions_about(worker: WorkerName, facts: Facts, ticks_late: bool) -> list[str]:
    """The sentences that apply to `worker` in this process."""
    return [
        caution.text
        for caution in CAUTIONS
        if worker in caution.workers and caution.applies(facts, ticks_late)
    ]
