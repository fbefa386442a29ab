"""Installs hbshim in a program started by ``hbshim run``, before its first line.

Python imports the module `sitecustomize` at start-up; ``hbshim run`` puts this
one first on ``PYTHONPATH``, in this process and in the Python processes it
starts. A sitecustomize that this one hides is run as it would have been.
See ``hbshim/activation.py``.
"""

import os
import sys


def _run_the_hidden_one() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    own = sys.modules.pop("sitecustomize", None)
    path, sys.path[:] = sys.path[:], [p for p in sys.path if os.path.abspath(p or ".") != here]
    try:
        __import__("sitecustomize")
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
    finally:
        sys.path[:] = path
        if own is not None:
            sys.modules.setdefault("sitecustomize", own)


def _activate() -> None:
    try:
        from hbshim.activation import activate
    except ImportError as error:
        # Another interpreter, which has no hbshim, started by the one that has.
        # As hbshim.activation.report() does, which is not to be had here.
        try:
            message = f"hbshim: not active in {sys.executable}: {error}\n"
            os.write(sys.stderr.fileno(), message.encode(errors="backslashreplace"))
        except Exception:
            return
    else:
        activate()


_run_the_hidden_one()
_activate()
