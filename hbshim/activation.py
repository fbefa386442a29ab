"""Installs hbshim in the processes that ``hbshim run`` starts, before their first line.

There are two ways. Python reads ``hbshim.pth`` in site-packages at each start; it acts only if
``hbshim run`` has set its variable. It works with -E and -I, and together with other launchers in
any order. ``bootstrap/sitecustomize.py`` is first on ``PYTHONPATH``; it works if hbshim is not
installed by pip, but the sitecustomize of another launcher may hide it.
"""

from __future__ import annotations

import os
import sys

#: Set by ``hbshim run`` for the program that it starts, and inherited by that program's children.
RUN_VARIABLE = "HBSHIM_RUN"

PTH = "hbshim.pth"


_tried = False


def activate() -> None:
    """Install hbshim unless it is installed, once per process.

    An error is reported in one line on stderr. The program must run in any case: its options may be
    invalid, or another interpreter may lack what hbshim needs.
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

    It bypasses the buffer of `sys.stderr`: text that cannot be written would stay there, and change
    the exit status of the program. A program may have no stderr.
    """
    try:
        os.write(sys.stderr.fileno(), line.encode(errors="backslashreplace"))
    except Exception:
        return


def activate_after_sitecustomize() -> None:
    """Call :func:`activate` when Python has run its sitecustomize; for ``hbshim.pth``.

    At that time every site directory is on ``sys.path``, and a sitecustomize that calls
    monkey_patch() or hbshim.install() itself has run.
    """
    import site

    run_sitecustomize = site.execsitecustomize

    def run_and_activate() -> None:
        site.execsitecustomize = run_sitecustomize
        run_sitecustomize()
        activate()

    site.execsitecustomize = run_and_activate
