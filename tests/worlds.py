"""Patches this test process, when HBSHIM_TEST_WORLD asks for a world other than native.

tox runs the suite once in each world. Scripts in ``isolated/`` are about the order
of patching and imports; they run in interpreters of their own in every world.
"""

import os
import warnings

import pytest

WORLD = os.environ.get("HBSHIM_TEST_WORLD", "native")

with warnings.catch_warnings():
    # Both libraries warn about what pytest has imported before; that is the point.
    warnings.simplefilter("ignore")
    if WORLD == "eventlet":
        import eventlet

        eventlet.monkey_patch()
    elif WORLD == "gevent":
        from gevent import monkey

        monkey.patch_all()
    elif WORLD != "native":
        raise SystemExit(f"HBSHIM_TEST_WORLD={WORLD}; use native, eventlet or gevent")

needs_os_threads = pytest.mark.skipif(
    WORLD != "native", reason="about operating-system threads, which `threading` has none of here"
)
