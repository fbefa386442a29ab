"""hbshim inspects itself from sub-interpreters, as mod_wsgi makes them."""

from __future__ import annotations

import sys

LEGACY = """
from hbshim.runtime.detect import detect
facts = detect().interpreter
assert facts.main is False
assert facts.daemon_threads
assert not facts.own_gil
assert "a sub-interpreter" in " ".join(detect().explain())
"""

OWN_GIL = """
from hbshim.runtime.detect import detect
report = detect()
assert report.interpreter.main is False
assert not report.interpreter.daemon_threads
assert report.interpreter.own_gil
assert report.choice.worker == "pthread"
assert "WSGIPerInterpreterGIL" in report.choice.warning
assert "with a GIL of its own" in " ".join(report.explain())
"""

if sys.version_info >= (3, 13):
    import _interpreters

    def run(own_gil: bool, code: str) -> None:
        interpreter = _interpreters.create("isolated" if own_gil else "legacy")
        failure = _interpreters.run_string(interpreter, code)
        assert failure is None, failure.formatted
        _interpreters.destroy(interpreter)
else:
    import _xxsubinterpreters  # type: ignore[import-not-found]

    def run(own_gil: bool, code: str) -> None:
        interpreter = _xxsubinterpreters.create(isolated=own_gil)
        _xxsubinterpreters.run_string(interpreter, code)
        _xxsubinterpreters.destroy(interpreter)


run(False, LEGACY)
# A GIL for each interpreter came with Python 3.12 (PEP 684).
if sys.version_info >= (3, 12):
    run(True, OWN_GIL)

print("pass")
