"""Real primitives in every concurrency model, and threads that end with their interpreter."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

MODELS = {
    "native": "",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "eventlet, hbshim first": "import hbshim.runtime.unpatched, eventlet; eventlet.monkey_patch()",
    "gevent, eventlet idle": "from gevent import monkey; monkey.patch_all(); import eventlet",
}


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("patch", MODELS.values(), ids=MODELS.keys())
def test_a_native_thread_runs_while_the_main_thread_waits_natively(patch: str) -> None:
    printed = run(
        patch
        + """
from hbshim.runtime.unpatched import allocate_lock, get_ident, start_native_thread
lock, idents = allocate_lock(), []
lock.acquire()
start_native_thread(lambda: (idents.append(get_ident()), lock.release()), lambda: None)
# A native wait stops the hub: only a thread of the operating system can end it.
assert lock.acquire(True, 20)
assert idents[0] != get_ident()
print("native")
"""
    )
    assert printed == "native\n"


@pytest.mark.parametrize("patch", MODELS.values(), ids=MODELS.keys())
def test_a_reentrant_lock_belongs_to_the_operating_systems_thread(patch: str) -> None:
    printed = run(
        patch
        + """
from hbshim.runtime.unpatched import allocate_lock, allocate_reentrant_lock, start_native_thread
lock, done, taken = allocate_reentrant_lock(), allocate_lock(), []
done.acquire()
with lock, lock:
    start_native_thread(lambda: (taken.append(lock.acquire(False)), done.release()), lambda: None)
    assert done.acquire(True, 20)
print(taken)
"""
    )
    assert printed == "[False]\n"


@pytest.mark.parametrize("patch", MODELS.values(), ids=MODELS.keys())
def test_a_native_thread_receives_no_signals_and_its_starter_keeps_its_own(patch: str) -> None:
    """A program that blocks SIGTERM in its only thread must not get it in a thread of hbshim."""
    printed = run(
        patch
        + """
import os, signal
from hbshim.runtime.unpatched import allocate_lock, original, start_native_thread
started, stop, seen = allocate_lock(), allocate_lock(), []
started.acquire(); stop.acquire()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
def thread():
    seen.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    started.release()
    stop.acquire()
start_native_thread(thread, stop.release)
assert started.acquire(True, 20)
assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before == {signal.SIGUSR2}
received = []
signal.signal(signal.SIGTERM, lambda *_: received.append("handled"))
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
os.kill(os.getpid(), signal.SIGTERM)
assert signal.sigwait({signal.SIGTERM}) == signal.SIGTERM
assert {signal.SIGTERM, signal.SIGINT, signal.SIGPROF, signal.SIGUSR2} <= seen[0]
assert signal.SIGSEGV not in seen[0]
print(received)
"""
    )
    assert printed == "[]\n"


def test_a_signal_handler_that_raises_leaves_the_signal_mask_as_it_was() -> None:
    printed = run("""
import os, signal
from hbshim.runtime.unpatched import signals_blocked
def raise_error(*_):
    raise TimeoutError("from a signal handler")
signal.signal(signal.SIGALRM, raise_error)
try:
    with signals_blocked():
        os.kill(os.getpid(), signal.SIGALRM)
except TimeoutError as error:
    print(error, signal.pthread_sigmask(signal.SIG_BLOCK, ()))
""")
    assert printed == "from a signal handler set()\n"


def test_a_sub_interpreter_that_gevent_has_patched_gets_no_green_thread_for_a_native_one() -> None:
    printed = run("""
from gevent import monkey; monkey.patch_all()
from hbshim.errors import WorkerError
from hbshim.runtime import unpatched
unpatched._start_raw_thread = unpatched._start_joined_thread
try:
    unpatched.start_native_thread(lambda: None, lambda: None)
except WorkerError as error:
    print(error)
""")
    assert "gevent has patched this sub-interpreter" in printed


IN_A_SUB_INTERPRETER = """
import sys
name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
interpreters = __import__(name)
inner = interpreters.create(CONFIG)
failed = interpreters.run_string(inner, '''
import sys
sys.path[:] = PATH
from hbshim.runtime.unpatched import allocate_lock, start_native_thread
stop, started = allocate_lock(), allocate_lock()
stop.acquire(); started.acquire()
start_native_thread(lambda: (started.release(), stop.acquire()), stop.release)
assert started.acquire(True, 20)
'''.replace("PATH", repr(sys.path)))
assert failed is None, failed
interpreters.destroy(inner)
print("ended")
"""

CONFIGURATIONS = {(3, 12): ["isolated=False", "isolated=True"]}.get(
    sys.version_info[:2], ["'legacy'", "'isolated'"]
)


@pytest.mark.skipif(
    sys.version_info < (3, 12),
    reason="Python's own API refuses to end a sub-interpreter with a thread in it before 3.12",
)
@pytest.mark.parametrize("config", CONFIGURATIONS)
def test_a_sub_interpreter_ends_with_the_heartbeat_thread_in_it(config: str) -> None:
    assert run(IN_A_SUB_INTERPRETER.replace("CONFIG", config)) == "ended\n"


@pytest.mark.parametrize(
    "patch",
    [
        "from gevent import monkey; monkey.patch_all()",
        "import warnings; warnings.simplefilter('ignore')\n"
        "import eventlet; eventlet.monkey_patch()",
        "",
    ],
    ids=["gevent", "eventlet", "native"],
)
def test_threads_that_are_started_at_once_leave_the_signal_mask_as_it_was(patch: str) -> None:
    """Green ones switch while they are started; a mask set then would be restored too early."""
    printed = run(f"""
{patch}
import signal, threading
from hbshim.runtime.unpatched import start_without_signals
def begin(depth):
    inner = threading.Thread(target=begin, args=(depth - 1,)) if depth else None
    if inner:
        start_without_signals(inner.start)
        inner.join()
outer = [threading.Thread(target=begin, args=(3,)) for _ in range(5)]
for each in outer:
    start_without_signals(each.start)
for each in outer:
    each.join()
print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
""")
    assert printed == "set()\n"
