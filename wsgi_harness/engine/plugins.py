"""Compose and buildx: as installed, else unpacked from Debian under build/ and not installed."""

from __future__ import annotations

import shutil
from pathlib import Path

from wsgi_harness.engine import debian
from wsgi_harness.engine.commands import Progress, run
from wsgi_harness.errors import CommandError, EngineUnavailableError
from wsgi_harness.paths import build_dir

_SUITE = "trixie"
"""bookworm's docker-compose is version 1; trixie's v2 and buildx run on bookworm's libc too."""


def installed_compose() -> tuple[str, ...] | None:
    """Return the command of an installed Compose version 2; 1 lacks `ps --format json`."""
    for command in (("docker", "compose"), ("docker-compose",)):
        try:
            version = run([*command, "version", "--short"], timeout=30).strip().lstrip("v")
        except CommandError:
            continue
        if version.split(".")[0].isdigit() and int(version.split(".")[0]) >= 2:
            return command
    return None


def unpack(names: list[str], progress: Progress) -> Path:
    """Return the directory of the plugins under build/; each is a program of its own too.

    Parameters:
        names: Debian's packages to unpack there where they are missing.

    Raises:
        EngineUnavailableError: one cannot be fetched here; the message names what to install.
    """
    plugins = build_dir() / "docker-config" / "cli-plugins"
    missing = [name for name in names if not (plugins / name).is_file()]
    if not missing:
        return plugins
    shown = " and ".join(missing)
    if not debian.is_debian():
        raise EngineUnavailableError(f"{shown} (Docker's plugin) is missing; install it")
    progress(f"unpacking {shown} from Debian {_SUITE} into {plugins} (not installed)")
    scratch = build_dir() / "engine" / "plugins"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        tree = debian.unpack(missing, _SUITE, scratch)
    except CommandError as error:
        raise EngineUnavailableError(
            f"{shown} (Docker's plugin) is missing and could not be fetched; "
            f"install it yourself: {error}"
        ) from error
    plugins.mkdir(parents=True, exist_ok=True)
    for name in missing:
        # Renamed into place whole: a download that was cut off must not pass for a plugin.
        next(tree.rglob(f"cli-plugins/{name}")).replace(plugins / name)
    shutil.rmtree(scratch)
    return plugins
