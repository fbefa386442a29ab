"""The additions to containers/compose.yaml: one service for each cell, and the environment."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsgi_harness.engine.images import Images
from wsgi_harness.errors import StackError
from wsgi_harness.paths import CONTAINERS, HARNESS, package_dir
from wsgi_harness.stack.leftovers import OWNER_LABEL, owner

BROKER = "rabbitmq"
"""Name of the broker's service, and its host name for the cells."""
USER = "hbshim"
CODE = "/srv/hbshim"
"""Where a cell sees the packages `hbshim` and `wsgi_harness`."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_OFFICIAL_CONFIG = """\
heartbeat = {heartbeat}
loopback_users = none
collect_statistics_interval = 1000
log.console = true
log.console.level = info
"""


@dataclass(frozen=True)
class CellService:
    """One container made from the Apache image.

    Attributes:
        name: name of the service, and its host name; lower-case letters, digits, `-`, `_`.
        environment: for the entrypoint (`MPM`, `WSGI_MODE` ...) and the WSGI process; `AMQP_URL` is
            added when absent.
        entrypoint: another program to run instead of httpd, which is then not waited for; behind
            `PYTHONPATH` it finds the packages of hbshim.
    """

    name: str
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    entrypoint: tuple[str, ...] = ()


def check_names(cells: Sequence[CellService], further_brokers: Collection[str] = ()) -> None:
    """Refuse names that Compose would refuse later, with a longer story; raises StackError."""
    names = [*(cell.name for cell in cells), *further_brokers]
    for name in names:
        if not _NAME.fullmatch(name) or name == BROKER or names.count(name) > 1:
            raise StackError(
                f"{name!r} cannot name a service: use each name once, not {BROKER!r}, and only "
                "lower-case letters, digits, - and _"
            )


def environment(images: Images, password: str, heartbeat: int) -> dict[str, str]:
    """Return the variables that compose.yaml and the cells' services refer to.

    They travel by environment, so that the password is in no file and in no command line.
    """
    return {
        "HBSHIM_RABBITMQ_IMAGE": images.rabbitmq,
        "HBSHIM_APACHE_IMAGE": images.apache,
        "HBSHIM_BROKER_USER": USER,
        "HBSHIM_BROKER_PASSWORD": password,
        "HBSHIM_BROKER_HEARTBEAT": str(heartbeat),
        "HBSHIM_BROKER_URL": f"amqp://{USER}:{password}@{BROKER}:5672/",
        "HBSHIM_OWNER": owner(),
    }


def write_code(directory: Path) -> Path:
    """Copy the packages that cells need to a directory that every user may read, and return it.

    A copy, because a checkout below /root or with a strict umask is closed to Apache's user, and
    because SELinux would have the mounted files relabelled. Taken at each start: no new image.
    """
    code = directory / "code"
    for package in (package_dir("hbshim"), HARNESS):
        shutil.copytree(package, code / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    _write_metadata(code)
    for path in (directory, code, *code.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return code


def _write_metadata(code: Path) -> None:
    """Write what an installation would: oslo.messaging finds its drivers by entry points."""
    try:
        installed = importlib.metadata.distribution("hbshim")
    except importlib.metadata.PackageNotFoundError:
        raise StackError("hbshim is not installed here; install it, `make venv` does") from None
    directory = code / f"hbshim-{installed.version}.dist-info"
    directory.mkdir()
    named = f"Metadata-Version: 2.1\nName: hbshim\nVersion: {installed.version}\n"
    (directory / "METADATA").write_text(named)
    (directory / "entry_points.txt").write_text(installed.read_text("entry_points.txt") or "")


def override(
    cells: Sequence[CellService],
    images: Images,
    heartbeat: int,
    directory: Path,
    further_brokers: Mapping[str, str],
) -> dict[str, Any]:
    """Return a Compose file, to be merged over compose.yaml.

    Parameters:
        further_brokers: images by the names of their services.
    """
    code = write_code(directory)
    services = {cell.name: _cell(cell, images, code) for cell in cells}
    for name, image in further_brokers.items():
        like = {"file": str(CONTAINERS / "compose.yaml"), "service": BROKER}
        services[name] = {"extends": like, "image": image}
    if not images.own_rabbitmq:
        services[BROKER] = _official_broker(heartbeat, directory)
    return {"services": services}


def _cell(cell: CellService, images: Images, code: Path) -> dict[str, Any]:
    given = {"AMQP_URL": "${HBSHIM_BROKER_URL}"}
    # Compose would expand a $ in a value that is meant as it is.
    given |= {key: value.replace("$", "$$") for key, value in cell.environment.items()}
    service: dict[str, Any] = {
        "image": images.apache,
        "environment": given,
        "volumes": [f"{code}:{CODE}:ro,z"],
        "labels": {OWNER_LABEL: "${HBSHIM_OWNER}"},
        "stop_grace_period": "1s",
        # Twenty-five of them side by side would take the processor that is measured; whether a
        # cell serves is asked over HTTP, once, at its start.
        "healthcheck": {"disable": True},
    }
    if cell.entrypoint:
        service["entrypoint"] = list(cell.entrypoint)
        given["PYTHONPATH"] = ":".join(filter(None, (given.get("PYTHONPATH"), CODE)))
    else:
        service["ports"] = ["127.0.0.1::80"]
    return service


def _official_broker(heartbeat: int, directory: Path) -> dict[str, Any]:
    """Return what an image made like Docker's own `rabbitmq` needs in its environment at start."""
    config, plugins = directory / "95-hbshim.conf", directory / "enabled_plugins"
    config.write_text(_OFFICIAL_CONFIG.format(heartbeat=heartbeat))
    plugins.write_text("[rabbitmq_management].\n")
    for path in (config, plugins):
        path.chmod(0o644)
    return {
        "volumes": [
            f"{config}:/etc/rabbitmq/conf.d/95-hbshim.conf:ro,z",
            f"{plugins}:/etc/rabbitmq/enabled_plugins:ro,z",
        ]
    }
