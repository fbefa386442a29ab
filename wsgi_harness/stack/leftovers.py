"""Removes what a killed run left behind, and nothing of a run that still exists."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from wsgi_harness.engine.commands import Progress, run
from wsgi_harness.engine.engine import Engine
from wsgi_harness.errors import CommandError

OWNER_LABEL = "org.hbshim.owner"
"""Label of each container and network: the process that it belongs to, from `owner()`."""

_PROJECT_LABEL = "com.docker.compose.project"


def owner() -> str:
    """Return what identifies this process permanently, or "" if the system has no /proc.

    A pid alone is reused, and means another process in another container that shares the engine: so
    its start time and its pid namespace are included.
    """
    return _identity(os.getpid()) or ""


def remove(engine: Engine, *, progress: Progress) -> None:
    """Remove the projects whose process, one of this pid namespace, is gone."""
    template = f'{{{{.Label "{OWNER_LABEL}"}}}} {{{{.Label "{_PROJECT_LABEL}"}}}}'
    filtered = f"--filter=label={OWNER_LABEL}"
    listed = engine.run("ps", "--all", filtered, "--format", template)
    for line in sorted(set(listed.splitlines())):
        label, _, project = line.partition(" ")
        if project and _is_orphan(label):
            progress(f"removing the containers of a run that was killed ({project})")
            take_down(engine, project)
    # `compose down` knows a project by its containers: a network without any is found here alone.
    networks = engine.run("network", "ls", filtered, "--format", "{{.Name}} {{.Labels}}")
    for line in networks.splitlines():
        name, _, labels = line.partition(" ")
        values = dict(each.partition("=")[::2] for each in labels.split(","))
        if _is_orphan(values.get(OWNER_LABEL, "")):
            # Refused once more: the run that left it has reported it, and a later one tries again.
            with contextlib.suppress(CommandError):
                engine.run("network", "rm", name)
                progress(f"removed the network of an earlier run ({name})")


def take_down(engine: Engine, project: str) -> None:
    """Remove a project's containers, networks and volumes, if need be all but its network.

    Raises:
        CommandError: something else stayed.
    """
    down = ["--project-name", project, "down", "--volumes", "--remove-orphans", "--timeout", "0"]
    try:
        run([*engine.compose, *down], timeout=120, env=engine.environment)
    except CommandError as error:
        if not only_its_network_stayed(engine, project, error):
            raise


def only_its_network_stayed(engine: Engine, project: str, error: CommandError) -> bool:
    """Whether `compose down` failed for nothing but a network that Docker would not remove.

    Docker 20.10 now and then counts endpoints of containers that are gone, until it is restarted.
    """
    of_project = f"--filter=label={_PROJECT_LABEL}={project}"
    return "has active endpoints" in str(error) and not engine.run(
        "ps", "--all", "--quiet", of_project
    )


def _is_orphan(label: str) -> bool:
    namespace, _, rest = label.partition("/")
    pid, _, _ = rest.partition("/")
    return namespace == _namespace() and pid.isdigit() and _identity(int(pid)) != label


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
