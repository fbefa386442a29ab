"""What a scenario of the roles needs: Ansible, hbshim's wheel, and an image of a host."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from wsgi_harness.engine.commands import Progress, run, silent
from wsgi_harness.engine.engine import ensure_engine
from wsgi_harness.engine.images import ensure_systemd_image
from wsgi_harness.errors import HarnessError
from wsgi_harness.paths import CHECKOUT, build_dir, set_up_lock
from wsgi_harness.stack.leftovers import owner

COLLECTION = CHECKOUT / "hbshim" / "ansible"
PROJECT = CHECKOUT / "tests" / "ansible"
_SETUP = CHECKOUT / "setup.py"
_LIMIT = 600.0


@dataclass(frozen=True)
class Environment:
    """Where the tools are.

    Attributes:
        tools: directory of the commands of Ansible, molecule and ansible-lint.
        collections: a path of collections with this checkout's.
        directory: for what scenarios generate.
    """

    tools: Path
    collections: Path
    directory: Path

    def variables(self) -> dict[str, str]:
        """Return the environment of a command of Ansible, beside that of this process."""
        return {
            "PATH": f"{self.tools}{os.pathsep}{os.environ['PATH']}",
            "ANSIBLE_COLLECTIONS_PATH": str(self.collections),
            "ANSIBLE_CONNECTION_PLUGINS": str(PROJECT / "plugins" / "connection"),
            "ANSIBLE_CALLBACK_PLUGINS": str(PROJECT / "plugins" / "callback"),
            "ANSIBLE_HOME": str(self.directory / "ansible"),
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_NOCOWS": "1",
            "XDG_CACHE_HOME": str(self.directory / "cache"),
            "PYTHONPYCACHEPREFIX": str(build_dir() / "pycache"),
            # Of this environment; those of the caller are for other interpreters.
            "PYTHONPATH": "",
            "PYTHONWARNINGS": "ignore",
            "NO_COLOR": "1",
        }


def requirements() -> list[str]:
    """Return what the extra ``roles`` of setup.py names."""
    text = _SETUP.read_text(encoding="utf-8")
    found: list[str] = []
    for name in ("ANSIBLE", "ROLES"):
        (line,) = re.findall(rf"^{name} = \[(.+)\]$", text, re.MULTILINE)
        found += re.findall(r'"([^"]+)"', line)
    return found


def ensure_environment(progress: Progress = silent) -> Environment:
    """Return the tools, installed under ``build/`` where they are missing.

    Raises:
        HarnessError: they cannot be installed.
    """
    directory = build_dir() / "roles"
    wanted = requirements()
    key = hashlib.sha256(repr((wanted, sys.version, str(directory))).encode()).hexdigest()[:16]
    environment = directory / "environment"
    stamp = environment / f".installed-{key}"
    with set_up_lock(progress):
        if not stamp.exists():
            progress(f"installing {', '.join(wanted)} into {environment}")
            shutil.rmtree(environment, ignore_errors=True)
            run([sys.executable, "-m", "venv", str(environment)], timeout=_LIMIT)
            pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet"]
            run([*pip, "--disable-pip-version-check", *wanted], timeout=_LIMIT)
            stamp.touch()
        collections = directory / "collections"
        link = collections / "ansible_collections" / "hbshim" / "messaging"
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.resolve() != COLLECTION:
            link.unlink(missing_ok=True)
            link.symlink_to(COLLECTION)
    return Environment(environment / "bin", collections, directory)


def ensure_hosts(environment: Environment, progress: Progress = silent) -> dict[str, str]:
    """Make the engine, the image of a host and hbshim's wheel ready.

    Returns:
        The environment of the playbooks that create the hosts.

    Raises:
        HarnessError: something cannot be had.
    """
    with set_up_lock(progress):
        engine = ensure_engine(progress)
        image = ensure_systemd_image(engine, progress=progress)
        wheel = _ensure_wheel(environment.directory)
    return {
        **engine.environment,
        "HBSHIM_ENGINE_CLIENT": shlex.join(engine.client),
        "HBSHIM_ROLES_IMAGE": image,
        "HBSHIM_ROLES_CHECKOUT": str(CHECKOUT),
        "HBSHIM_ROLES_DIRECTORY": str(environment.directory / "state"),
        "HBSHIM_ROLES_OWNER": owner(),
        "HBSHIM_ROLES_WHEEL": str(wheel),
    }


def _ensure_wheel(directory: Path) -> Path:
    """Return a directory with the wheel of this checkout alone."""
    digest = hashlib.sha256()
    for path in sorted((CHECKOUT / "hbshim").rglob("*.py")):
        digest.update(path.read_bytes())
    wheel = directory / "wheels" / digest.hexdigest()[:16]
    if not any(wheel.glob("*.whl")):
        shutil.rmtree(wheel.parent, ignore_errors=True)
        wheel.mkdir(parents=True)
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
        command = [*pip, "--no-build-isolation", "--wheel-dir", str(wheel), str(CHECKOUT)]
        run([*command, "--disable-pip-version-check"], timeout=_LIMIT)
    if not any(wheel.glob("*.whl")):
        raise HarnessError(f"pip has built no wheel of {CHECKOUT}")
    return wheel
