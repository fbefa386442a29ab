"""A fork as hosts written in C do it, behind Python's back, where such a fork is sound.

A thread that waits for the GIL while another forks leaves its traces in the child: a waiter in
the GIL's condition variable, a request to drop the GIL, or its mutex locked. The child has no
such thread, and hangs when it next lets go of the GIL: CPython's ``drop_gil`` waits for the
switch, or glibc for the waiter. ``PyOS_AfterFork_Child`` makes the GIL anew; but it runs the
hooks of ``os.register_at_fork``, too, and hosts that do without both fork where no thread waits.
"""

import ctypes
import os
import re
import signal
import time

from hbshim.runtime.unpatched import get_native_id, original

#: Seconds until the other threads must have been asleep for once. It ends what hangs.
REST_LIMIT = 120.0

_FIELDS = re.compile(
    rb"^State:\t(.).*^voluntary_ctxt_switches:\t(\d+)\nnonvoluntary_ctxt_switches:\t(\d+)",
    re.MULTILINE | re.DOTALL,
)


def fork_in_c() -> int:
    """Fork by the C library's ``fork`` while every other thread sleeps; as ``os.fork`` returns.

    A thread slept all the while if it sleeps before and after and was not switched in between.
    It did not sleep for want of the GIL: each read of its state lets go of the GIL, which wakes
    a thread that waits for it. A child of a fork that some thread was not asleep at is killed,
    before it has let go of the GIL, and the fork made again.
    """
    # PyDLL, unlike CDLL, calls with the GIL held.
    libc, verdict = ctypes.PyDLL(None), ctypes.create_string_buffer(1)
    deadline = time.monotonic() + REST_LIMIT
    while True:
        asleep = _others()
        if _all_sleep(asleep) and _others() == asleep:
            reading, writing = os.pipe()
            child: int = libc.fork()
            if child == 0:
                libc.close(writing)
                if libc.read(reading, verdict, 1) != 1:
                    libc._exit(1)
                os.close(reading)
                return 0
            sound = child > 0 and _others() == asleep
            if sound:
                original("os", "write")(writing, b"!")
            os.close(reading)
            os.close(writing)
            if sound:
                return child
            assert child > 0, "the C library's fork failed"
            os.kill(child, signal.SIGKILL)
            original("os", "waitpid")(child, 0)
        assert time.monotonic() < deadline, f"other threads do not come to rest: {asleep}"
        original("time", "sleep")(0.002)


def _others() -> dict[str, tuple[bytes, ...]]:
    """State and counts of context switches of each other thread, by its id (proc(5)).

    By as few system calls as can be: on a busy machine this one thread is interrupted for long, and
    all others must sleep from the first to the last of them.
    """
    found = {}
    own = str(get_native_id())
    open_, read, close = original("os", "open"), original("os", "read"), original("os", "close")
    for task in os.listdir("/proc/self/task"):
        if task == own:
            continue
        try:
            status = open_(f"/proc/self/task/{task}/status", os.O_RDONLY)
        except FileNotFoundError:
            continue  # it has ended
        try:
            found[task] = _FIELDS.search(read(status, 8192)).groups()
        except ProcessLookupError:
            continue
        finally:
            close(status)
    return found


def _all_sleep(threads: dict[str, tuple[bytes, ...]]) -> bool:
    return all(state == b"S" for state, *_ in threads.values())
