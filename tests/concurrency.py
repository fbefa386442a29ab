"""Patch this test process by HBSHIM_TEST_CONCURRENCY: eventlet or gevent; native leaves it.

tox runs the suite once in each concurrency model. Scripts in ``isolated/`` are about the order
of patching and imports; they run in interpreters of their own in every concurrency model.
"""

import os
import warnings

import pytest

MODEL = os.environ.get("HBSHIM_TEST_CONCURRENCY", "native")

with warnings.catch_warnings():
    # Both libraries warn about what pytest has imported before; that is the point.
    warnings.simplefilter("ignore")
    if MODEL == "eventlet":
        import eventlet

        eventlet.monkey_patch()
    elif MODEL == "gevent":
        from gevent import monkey

        monkey.patch_all()
    elif MODEL != "native":
        raise SystemExit(f"HBSHIM_TEST_CONCURRENCY={MODEL}; use native, eventlet or gevent")

needs_os_threads = pytest.mark.skipif(
    MODEL != "native", reason="about operating-system threads, which `threading` has none of here"
)
