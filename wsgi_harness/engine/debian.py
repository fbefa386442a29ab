"""What Debian's archive gives: packages installed, packages merely unpacked, and a base image."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from wsgi_harness.engine.commands import Progress, run
from wsgi_harness.errors import CommandError, EngineUnavailableError

MIRROR = "http://deb.debian.org/debian"
UNRELEASED = {"forky": "Acquire::Check-Valid-Until=false"}
"""Suites whose Release file may have outlived its date, with the option that lets apt read it."""
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_QUIET = {"DEBIAN_FRONTEND": "noninteractive"}


def is_debian() -> bool:
    """Whether apt and dpkg are there to use."""
    return shutil.which("apt-get") is not None and shutil.which("dpkg-deb") is not None


def why_not_installable() -> str | None:
    """Return why nothing may or can be installed here, or None where it can."""
    if os.environ.get("HBSHIM_INSTALL_ENGINE") == "0":
        return "HBSHIM_INSTALL_ENGINE=0 forbids installing anything"
    if not is_debian():
        return "installing is only known for Debian"
    if os.geteuid() != 0:
        return "installing needs root"
    return None


def install(packages: Sequence[str], *, why: str, progress: Progress) -> None:
    """Install packages with apt, after a line that names them.

    Parameters:
        why: what they are needed for, as part of a sentence.

    Raises:
        EngineUnavailableError: installing is forbidden or impossible, or apt failed.
    """
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    if reason := why_not_installable():
        raise EngineUnavailableError(f"{why}, but {reason}; run this as root: {' '.join(command)}")
    progress(f"{why}; installing: {' '.join(command)} (HBSHIM_INSTALL_ENGINE=0 forbids this)")
    # Another apt may be at work (unattended-upgrades, a second checkout): wait for its lock.
    wait = ["-o", "DPkg::Lock::Timeout=120"]
    try:
        # Finishes an installation that was cut off; does nothing otherwise.
        run(["dpkg", "--configure", "-a"], timeout=120, env=_QUIET)
        try:
            run(["apt-get", *wait, "update"], timeout=120)
        except CommandError as error:
            # One broken third-party source is no reason to stop: what counts is the install.
            progress(f"apt-get update complained: {str(error).splitlines()[-1]}")
        run([command[0], *wait, *command[1:]], timeout=300, env=_QUIET)
    except CommandError as error:
        raise EngineUnavailableError(f"{why}, but installing {packages[0]} failed: {error}") from (
            error
        )


def unpack(packages: Sequence[str], suite: str, into: Path) -> Path:
    """Download packages of a suite, unpack them without installing, and return the tree.

    apt does it with a configuration of its own, so that Debian's signatures are checked and
    nothing of the system's apt is touched; root is not needed.

    Raises:
        CommandError: the archive cannot be reached, or lacks a package.
    """
    state = into / "apt"
    for path in ("lists/partial", "archives/partial", "etc"):
        (state / path).mkdir(parents=True, exist_ok=True)
    signed = f"[signed-by={_KEYRING}] " if _KEYRING.is_file() else ""
    sources = state / "etc" / "sources.list"
    sources.write_text(f"deb {signed}{MIRROR} {suite} main\n")
    (state / "status").touch()
    options = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state,
        "Dir::Cache::archives": state / "archives",
        "Acquire::Languages": "none",
        # apt as root would become _apt, which need not have access to this directory.
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", *(f"-o{key}={value}" for key, value in options.items())]
    run([*apt, "update"], timeout=120)
    downloads = into / "packages"
    downloads.mkdir(exist_ok=True)
    run([*apt, "download", *packages], timeout=180, cwd=downloads)
    tree = into / "tree"
    for package in sorted(downloads.glob("*.deb")):
        run(["dpkg-deb", "-x", package, tree], timeout=60)
    shutil.rmtree(state)
    shutil.rmtree(downloads)
    return tree


def bootstrap(suite: str, tarball: Path, *, progress: Progress) -> None:
    """Make a minimal root file system of a Debian suite as a tar file.

    Raises:
        EngineUnavailableError: mmdebstrap is missing and cannot be installed.
        CommandError: the archive cannot be reached, or mmdebstrap failed.
    """
    if shutil.which("mmdebstrap") is None:
        install(
            ["mmdebstrap"],
            why="no base image can be pulled, so one is to be made",
            progress=progress,
        )
    argv = ["mmdebstrap", "--variant=minbase", "--include=ca-certificates"]
    if suite in UNRELEASED:
        option, value = UNRELEASED[suite].split("=")
        argv.append(f'--aptopt={option} "{value}"')
    run([*argv, suite, tarball, MIRROR], timeout=240)
