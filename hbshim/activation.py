"""Installs hbshim in the processes that ``hbshim run`` starts, before their first line.

Two ways lead here. ``hbshim.pth`` lies in site-packages and is read at each start of
Python; it does something only where ``hbshim run`` has set its variable. It works with
-E and -I, and beside other launchers, whichever comes first. ``bootstrap/sitecustomize.py``
is first on ``PYTHONPATH``; it works where hbshim is not installed by pip, but another
launcher that puts a sitecustomize of its own in front may hide it.
"""

from __future__ import annotations

import os
import sys

#: Set by ``hbshim run`` for the program that it starts, and inherited by what that starts.
RUN_VARIABLE = "HBSHIM_RUN"

PTH = "hbshim.pth"


_tried = False


def activate() -> None:
    """Install hbshim unless it is installed; an error is one line on stderr. Once in a process.

    The program must run all the same: its options may be wrong, or its interpreter may
    be another one that lacks what hbshim needs.
    """
    global _tried
    if _tried:
        return
    _tried = True
    try:
        from hbshim import api

        if api.installed_options() is None:
            api.install()
    except Exception as error:
        report(f"hbshim: not active in {sys.executable}: {error}\n")


def report(line: str) -> None:
    """Write to stderr; raises nothing, because an exception here would end the start of Python.

    Not through the buffer of `sys.stderr`: what cannot be written would stay in it, and
    change the exit status of the program. A program may have no stderr.
    """
    try:
        os.write(sys.stderr.fileno(), line.encode(errors="backslashreplace"))
    except Exception:
        return


def activate_after_sitecustomize() -> None:
    """Call :func:`activate` when Python has run its sitecustomize; for ``hbshim.pth``.

    At that moment every site directory is on ``sys.path``, and a sitecustomize that calls
    monkey_patch() or hbshim.install() by itself has done so.
    """
    import site

    run_sitecustomize = site.execsitecustomize

    def run_and_activate() -> None:
        site.execsitecustomize = run_sitecustomize
        run_sitecustomize()
        activate()

    site.execsitecustomize = run_and_activate
