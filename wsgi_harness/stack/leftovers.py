"""Removes what a run that was killed outright left behind, and nothing of a run that lives."""

from __future__ import annotations

import os
from pathlib import Path

from wsgi_harness.engine.commands import Progress, run
from wsgi_harness.engine.engine import Engine

OWNER_LABEL = "org.hbshim.owner"
"""Label of each container: which process it belongs to, as `owner()` says."""


def owner() -> str:
    """Return what identifies this process for good, or "" where the system has no /proc.

    A pid alone is used again, and means another process in another container that shares the
    engine: hence its start time and its pid namespace.
    """
    return _identity(os.getpid()) or ""


def remove(engine: Engine, *, progress: Progress) -> None:
    """Remove the projects whose process, one of this pid namespace, is gone."""
    template = f'{{{{.Label "{OWNER_LABEL}"}}}} {{{{.Label "com.docker.compose.project"}}}}'
    filtered = f"--filter=label={OWNER_LABEL}"
    listed = engine.run("ps", "--all", filtered, "--format", template)
    for line in sorted(set(listed.splitlines())):
        label, _, project = line.partition(" ")
        namespace, _, rest = label.partition("/")
        pid, _, _ = rest.partition("/")
        if namespace != _namespace() or not project or not pid.isdigit():
            continue
        if _identity(int(pid)) != label:
            progress(f"removing the containers of a run that was killed ({project})")
            down = ["--project-name", project, "down", "--volumes", "--remove-orphans"]
            run([*engine.compose, *down, "--timeout", "0"], timeout=120, env=engine.environment)


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _identity(pid: int) -> str | None:
    try:
        # the name in parentheses may hold spaces; start time is the 20th field after it
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return f"{_namespace()}/{pid}/{fields[19]}"
