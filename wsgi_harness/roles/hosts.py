"""The hosts of a scenario: containers with systemd as process 1.

Playbooks of molecule could create and remove them, too. That is three more runs of Ansible for each
scenario, which is a third of the time of a small one.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from wsgi_harness.engine.commands import run
from wsgi_harness.errors import CommandError, HarnessError

_LIMIT = 120.0
_PAUSE = 0.2

#: systemd mounts, which needs SYS_ADMIN; its control groups are in a namespace of their own.
_SYSTEMD = (
    *("--cap-add=SYS_ADMIN", "--security-opt=seccomp=unconfined", "--cgroupns=private"),
    *("--tmpfs=/run", "--tmpfs=/run/lock"),
)


def names_in(inventory: str) -> list[str]:
    """Return the hosts of an inventory, in YAML with a key and a line for each."""
    found: dict[str, None] = {}
    depth: int | None = None
    for line in inventory.splitlines():
        indent = len(line) - len(line.lstrip())
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if depth is not None and indent <= depth:
            depth = None
        if depth is not None and indent == depth + 2:
            found[line.strip().partition(":")[0]] = None
        if re.fullmatch(r" *hosts:", line):
            depth = indent
    return list(found)


class Hosts:
    """The hosts of one scenario; a context manager.

    Parameters:
        scenario: its name.
        names: of the hosts.
        variables: of :func:`~wsgi_harness.roles.environment.ensure_hosts`.

    Attributes:
        keeps: leave them where they are at the end.
    """

    def __init__(self, scenario: str, names: list[str], variables: Mapping[str, str]) -> None:
        self._project = f"hbshim-roles-{scenario}"
        self._names = names
        self._variables = variables
        self._state = Path(variables["HBSHIM_ROLES_DIRECTORY"]) / scenario
        self.keeps = False

    def __enter__(self) -> Hosts:
        """Remove what an earlier run has left, create them, and wait until they run.

        Raises:
            HarnessError: they cannot be created, or do not start.
        """
        self._remove()
        try:
            self._create()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        if not self.keeps:
            self._remove()

    def keep_journals(self, directory: Path) -> None:
        """Write what each host has logged into a file of its name."""
        for name in self._names:
            with contextlib.suppress(CommandError):
                journal = self._run("exec", f"{self._project}-{name}", "journalctl", "--no-pager")
                (directory / f"{name}.log").write_text(journal)

    def _create(self) -> None:
        given = self._variables
        checkout = given["HBSHIM_ROLES_CHECKOUT"]
        labels = (
            f"--label=org.hbshim.owner={given['HBSHIM_ROLES_OWNER']}",
            f"--label=com.docker.compose.project={self._project}",
        )
        volumes = (
            f"--volume={given['HBSHIM_ROLES_WHEEL']}:/srv/hbshim-wheel:ro",
            f"--volume={checkout}/wsgi_harness:/srv/hbshim/wsgi_harness:ro",
            f"--volume={checkout}/hbshim:/srv/hbshim/hbshim:ro",
            f"--volume={checkout}/tests/ansible/programs:/srv/hbshim-tests:ro",
        )
        self._run("network", "create", *labels, self._project)
        for name in self._names:
            place = (f"--network={self._project}", f"--network-alias={name}", f"--hostname={name}")
            container = (f"--name={self._project}-{name}", *place, *labels, *_SYSTEMD, *volumes)
            self._run("run", "--detach", *container, given["HBSHIM_ROLES_IMAGE"])
        deadline = time.monotonic() + _LIMIT
        for name in self._names:
            while not self._runs(name):
                if time.monotonic() > deadline:
                    raise HarnessError(f"systemd does not start on {name} within {_LIMIT:g} s")
                time.sleep(_PAUSE)

    def _runs(self, name: str) -> bool:
        # Its status is 1 where a unit has failed.
        command = "systemctl is-system-running || true"
        with contextlib.suppress(CommandError):
            state = self._run("exec", f"{self._project}-{name}", "sh", "-c", command)
            return state.strip() in ("running", "degraded")
        return False

    def _remove(self) -> None:
        label = f"--filter=label=com.docker.compose.project={self._project}"
        for name in self._run("ps", "--all", "--quiet", label).split():
            self._run("rm", "--force", "--volumes", name)
        for name in self._run("network", "ls", "--quiet", label).split():
            self._run("network", "rm", name)
        # The authority.
        shutil.rmtree(self._state, ignore_errors=True)

    def _run(self, *arguments: str) -> str:
        client = shlex.split(self._variables["HBSHIM_ENGINE_CLIENT"])
        return run([*client, *arguments], timeout=_LIMIT, env=self._variables)


def hosts_of(directory: Path, variables: Mapping[str, str]) -> Hosts:
    """Return the hosts of the scenario in a directory."""
    names = names_in((directory / "inventory.yml").read_text(encoding="utf-8"))
    return Hosts(directory.name, names, variables)
