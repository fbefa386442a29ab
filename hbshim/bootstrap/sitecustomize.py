"""Installs hbshim in a program started by ``hbshim run``, before its first line.

Python imports the module `sitecustomize` at start-up; ``hbshim run`` puts this
one first on ``PYTHONPATH``, in this process and in the Python processes it
starts. A sitecustomize of the program's own is run as it would have been.
"""

import os
import sys


def _run_the_one_we_hide() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    ours = sys.modules.pop("sitecustomize", None)
    path, sys.path[:] = sys.path[:], [p for p in sys.path if os.path.abspath(p or ".") != here]
    try:
        __import__("sitecustomize")
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
    finally:
        sys.path[:] = path
        if ours is not None:
            sys.modules.setdefault("sitecustomize", ours)


def _install() -> None:
    try:
        import hbshim

        hbshim.install()
    except Exception as error:
        # The program must run all the same: perhaps it is another interpreter,
        # which has no hbshim, started by the one that has.
        sys.stderr.write(f"hbshim: not active in {sys.executable}: {error}\n")


_run_the_one_we_hide()
_install()
