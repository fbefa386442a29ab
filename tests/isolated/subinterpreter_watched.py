"""A sub-interpreter, as mod_wsgi makes them, can be watched; it takes its socket with it."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable

if sys.version_info < (3, 12):
    print("skip: this Python's own sub-interpreters refuse to end when they have a thread")
    sys.exit()

directory = tempfile.mkdtemp()
path = os.path.join(directory, "s")

CODE = f"""
from hbshim.observe import listen
from hbshim.observe.client import ask
assert listen({path!r}) == {path!r}
assert ask({path!r}).links == ()
"""

if sys.version_info >= (3, 13):
    import _interpreters

    def run(own_gil: bool, code: str) -> Callable[[], object]:
        interpreter = _interpreters.create("isolated" if own_gil else "legacy")
        failure = _interpreters.run_string(interpreter, code)
        assert failure is None, failure.formatted
        return lambda: _interpreters.destroy(interpreter)
else:
    import _xxsubinterpreters  # type: ignore[import-not-found]

    def run(own_gil: bool, code: str) -> Callable[[], object]:
        interpreter = _xxsubinterpreters.create(isolated=own_gil)
        _xxsubinterpreters.run_string(interpreter, code)
        return lambda: _xxsubinterpreters.destroy(interpreter)


for own_gil in (False, True):
    destroy = run(own_gil, CODE)
    assert os.path.exists(path)
    destroy()
    assert not os.path.exists(path)

os.rmdir(directory)
print("pass")
