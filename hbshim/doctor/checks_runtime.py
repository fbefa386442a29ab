"""Checks of this process: what is patched, the host, and the interpreter."""

from __future__ import annotations

import sys

from hbshim.doctor.context import Context
from hbshim.doctor.findings import Answer, Check
from hbshim.runtime.captured import Captured, scan
from hbshim.runtime.loaded import peek
from hbshim.runtime.polling import POLLERS

#: What a module may have imported before it was patched: by eventlet's name of the patch, the
#: module that defines it. Classes and C functions only; see ``captured.py``.
TAKEN_EARLY: dict[str, dict[str, tuple[str, ...]]] = {
    "socket": {"socket": ("socket",)},
    "select": {"select": ("select",)},
    "thread": {"_thread": ("_local", "allocate_lock", "lock", "start_new_thread")},
    "time": {"time": ("sleep",)},
}
NAMED_AT_MOST = 3


def _worker(context: Context) -> Answer:
    choice = context.runtime.choice
    sentence = f"Heartbeats come from: {choice.worker}. {choice.reason}"
    if choice.warning:
        return Answer("warning", sentence, choice.warning)
    return Answer("ok", sentence)


def _patching(context: Context) -> Answer:
    green = context.runtime.green
    if green.library == "none":
        return Answer("not-applicable", "Neither eventlet nor gevent has patched this process.")
    if green.library == "both":
        return Answer(
            "problem",
            "eventlet and gevent have both patched this process.",
            "Patch with one of them only, in the program's first lines.",
        )
    patches = green.eventlet if green.library == "eventlet" else green.gevent
    wrong = []
    if patches.missing:
        wrong.append(
            f"{green.library} has patched {', '.join(patches.patched)}, and left "
            f"{', '.join(patches.missing)} native: each wait there stops the hub."
        )
    if early := taken_early(patches.patched):
        wrong.append(
            f"{green.library} patched too late: {_named(early)} took the native ones before."
        )
    if wrong:
        return Answer("warning", " ".join(wrong))
    return Answer("ok", f"{green.library} has patched everything that counts, and in time.")


def taken_early(patched: tuple[str, ...]) -> list[Captured]:
    """Return references that modules outside the standard library took before the patching.

    Parameters:
        patched: what is patched now, by eventlet's names.
    """
    targets = {home: names for what in patched for home, names in TAKEN_EARLY.get(what, {}).items()}
    return [found for found in scan(targets) if not _standard(found.module)]


def _standard(module: str) -> bool:
    # References in the standard library are handled by eventlet and gevent. `__mp_main__` is
    # another name of `__main__`. hbshim keeps native functions on purpose.
    top = module.partition(".")[0]
    if top == "__main__":
        return False
    return top in sys.stdlib_module_names or top in ("__mp_main__", "hbshim")


def _named(found: list[Captured]) -> str:
    names = [f"{one.module}.{one.name}" for one in found[:NAMED_AT_MOST]]
    more = len(found) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _pollers(context: Context) -> Answer:
    library = context.runtime.green.library
    if library == "none":
        return Answer("not-applicable", "Nothing is patched, so native pollers do no harm.")
    # eventlet has no green poller, whatever the name holds; gevent has its own.
    present = [] if library == "gevent" else [n for n in POLLERS["select"] if peek("select", n)]
    if present:
        return Answer(
            "problem",
            f"select still has {', '.join(present)}, which {library} cannot make green; pika "
            "picks one of them, and each wait there stops the hub.",
        )
    captured = [found for found in scan(POLLERS) if not _standard(found.module)]
    if captured:
        return Answer(
            "warning",
            f"{_named(captured)} took a native poller before it was removed; each wait there "
            "stops the hub.",
            "Patch, or call hbshim.install(), before that module is imported.",
        )
    return Answer("ok", "No module outside the standard library holds a native poller.")


def _uwsgi_threads(context: Context) -> Answer:
    host = context.runtime.host
    if host.kind != "uwsgi":
        return Answer("not-applicable", "The host is not uWSGI.")
    if not host.threads_run:
        return Answer(
            "problem",
            f"uWSGI {host.version or ''} runs without --enable-threads: no Python thread runs "
            "between requests, so no native heartbeat does.",
        )
    return Answer("ok", f"uWSGI {host.version or ''} lets Python threads run between requests.")


def _uwsgi_lazy_apps(context: Context) -> Answer:
    host = context.runtime.host
    if host.kind != "uwsgi":
        return Answer("not-applicable", "The host is not uWSGI.")
    if host.lazy_apps:
        return Answer("ok", "uWSGI loads the application after the fork (--lazy-apps).")
    return Answer(
        "unknown",
        "uWSGI loads the application before the fork: a connection opened at import belongs to "
        "the master, and whether there is one cannot be seen from here.",
    )


def _interpreter(context: Context) -> Answer:
    facts = context.runtime.interpreter
    if facts.own_gil or not facts.daemon_threads:
        return Answer(
            "warning",
            "This sub-interpreter has a GIL of its own and forbids daemon threads; the heartbeat "
            "thread is stopped and joined when it ends, and many C extensions refuse to load.",
        )
    if facts.main is False:
        return Answer(
            "ok",
            "This is a sub-interpreter that shares the GIL; the heartbeat thread is stopped and "
            "joined when it ends.",
        )
    return Answer("ok", f"Python {facts.python}, an interpreter that allows daemon threads.")


def _free_threading(context: Context) -> Answer:
    facts = context.runtime.interpreter
    if not facts.free_threaded:
        return Answer("not-applicable", "This Python is not a free-threaded build.")
    if facts.gil_enabled:
        return Answer("ok", "This free-threaded build runs with the GIL on.")
    return Answer("problem", "This Python runs without the GIL, which hbshim needs.")


CHECKS = (
    Check(
        "worker",
        "What `hbshim.detect()` sees, and the heartbeat worker that follows from it.",
        "A worker that does not run between requests sends no heartbeat in time; see detection.md.",
        "Leave heartbeat_in_pthread and worker at auto.",
        _worker,
    ),
    Check(
        "patching",
        "Whether eventlet or gevent patched everything that counts, alone, and before other "
        "modules took references to the native functions.",
        "A module that holds the native `sleep`, `socket` or lock waits in the operating system; "
        "the hub, and every green thread with it, stands still meanwhile.",
        "Call monkey_patch() without arguments in the program's first lines, before any "
        "other import.",
        _patching,
    ),
    Check(
        "pollers",
        "Whether `select` still offers epoll, poll or kqueue, and which modules took them earlier.",
        "pika and others prefer epoll where they find it. Under eventlet that wait is native and "
        "stops the hub.",
        "Call hbshim.install(), which removes them, or monkey_patch() without select=False.",
        _pollers,
    ),
    Check(
        "uwsgi-threads",
        "uWSGI's `--enable-threads`.",
        "Before uWSGI 2.0.27 no Python thread runs between requests without it, and the broker "
        "closes idle connections.",
        "Start uWSGI with --enable-threads or --threads N, or use uWSGI 2.0.27 or later.",
        _uwsgi_threads,
    ),
    Check(
        "uwsgi-lazy-apps",
        "uWSGI's `--lazy-apps`.",
        "Without it the application is imported in the master and forked. A connection opened "
        "then is the master's; a worker that uses it gets an error from hbshim.",
        "Open connections in the worker, on first use or in @postfork; or start uWSGI with "
        "--lazy-apps.",
        _uwsgi_lazy_apps,
    ),
    Check(
        "interpreter",
        "Whether this is a sub-interpreter, has a GIL of its own, and allows daemon threads.",
        "mod_wsgi runs applications in sub-interpreters. With a GIL of their own they forbid "
        "daemon threads, and shutdown waits for the heartbeat thread.",
        "Set 'WSGIPerInterpreterGIL Off' or 'WSGIApplicationGroup %{GLOBAL}' in Apache.",
        _interpreter,
    ),
    Check(
        "free-threading",
        "Whether this Python runs without the GIL.",
        "hbshim refuses to send heartbeats without the GIL, which keeps them out of other frames.",
        "Set PYTHON_GIL=1, or use the ordinary build of this Python.",
        _free_threading,
    ),
)
