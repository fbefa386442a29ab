"""Finds a container engine, or makes one available: Docker, else Podman, else Debian's docker.io.

An existing engine is used as it is. Installations are announced first, and there are none with
`HBSHIM_INSTALL_ENGINE=0`.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wsgi_harness.engine import debian, dockerd, plugins
from wsgi_harness.engine.commands import Progress, run, silent, succeeds
from wsgi_harness.errors import CommandError, EngineUnavailableError
from wsgi_harness.paths import build_dir

_SOCKET_PATH_LIMIT = 100
"""The kernel takes 107 bytes for the path of a Unix socket."""
_PODMAN_START = 20.0

MANUAL_STEPS = """\
By hand, as root on Debian:
  apt-get install docker.io
  dockerd &                      # or: systemctl start docker
or install Podman, or start the engine that you have and name it in DOCKER_HOST."""


@dataclass(frozen=True)
class Engine:
    """A container engine that answers.

    Attributes:
        kind: what it is.
        version: its own version.
        client: the command for images: `docker` or `podman`.
        builder: the command that `build` is given to.
        compose: the command for a Compose project, version 2.
        environment: what those commands need beside the environment of this process.
    """

    kind: Literal["docker", "podman"]
    version: str
    client: tuple[str, ...]
    builder: tuple[str, ...]
    compose: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, *argv: str | Path, timeout: float = 60) -> str:
        """Run the image client; raises CommandError."""
        return run([*self.client, *argv], timeout=timeout, env=self.environment)

    def inspect_image(self, name: str, template: str) -> str | None:
        """Return what a Go template gives for an image, or None where there is no such image."""
        try:
            return self.run("image", "inspect", "--format", template, name).strip()
        except CommandError:
            return None


def ensure_engine(progress: Progress = silent) -> Engine:
    """Return an engine that answers; find, start or install one.

    Raises:
        EngineUnavailableError: none is there and none can be installed; the message has a remedy.
    """
    version = _docker_version()
    if version is not None:
        root = Path(run(["docker", "info", "--format", "{{.DockerRootDir}}"], timeout=30).strip())
        if dockerd.retire_orphan(root, progress=progress):
            version = None
    if version is None:
        host = os.environ.get("DOCKER_HOST")
        if host and shutil.which("docker"):
            raise EngineUnavailableError(
                f"no engine answers at DOCKER_HOST={host}; start it, or unset DOCKER_HOST to let "
                f"hbshim search for one\n{MANUAL_STEPS}"
            )
        if (podman := _podman(progress)) is not None:
            return podman
        _start_docker(progress)
        version = _docker_version()
    if version is None:
        raise EngineUnavailableError(
            f"the Docker engine runs, but `docker version` gets no answer\n{MANUAL_STEPS}"
        )
    # Debian's podman-docker: the command is called docker, what answers is Podman.
    is_podman = "podman" in run(["docker", "--version"], timeout=30).lower()
    return (_podman(progress) if is_podman else None) or _docker(version, progress)


def _docker_version() -> str | None:
    try:
        out = run(["docker", "version", "--format", "{{.Server.Version}}"], timeout=30)
    except CommandError:
        return None
    return out.strip() or None


def _docker(version: str, progress: Progress) -> Engine:
    # buildx would keep its state in the home directory
    state = os.environ.get("BUILDX_CONFIG") or str(build_dir() / "engine" / "buildx")
    buildx = ("docker", "buildx")
    has_buildx = succeeds([*buildx, "version"], timeout=30)
    compose = plugins.installed_compose()
    wanted = [] if has_buildx else ["docker-buildx"]
    wanted += [] if compose else ["docker-compose"]
    unpacked = plugins.unpack(wanted, progress)
    return Engine(
        "docker",
        version,
        client=("docker",),
        builder=buildx if has_buildx else (str(unpacked / "docker-buildx"),),
        compose=compose or (str(unpacked / "docker-compose"),),
        environment={"BUILDX_CONFIG": state},
    )


def _podman(progress: Progress) -> Engine | None:
    if shutil.which("podman") is None:
        return None
    try:
        # not `podman version`: that one works where no container could start
        version = run(["podman", "info", "--format", "{{.Version.Version}}"], timeout=30).strip()
    except CommandError as error:
        progress(f"Podman is installed, but unusable: {str(error).splitlines()[-1]}")
        return None
    environment = {"DOCKER_HOST": f"unix://{_podman_socket(progress)}"}
    compose = plugins.installed_compose()
    if compose is None:
        compose = (str(plugins.unpack(["docker-compose"], progress) / "docker-compose"),)
    return Engine("podman", version, ("podman",), ("podman",), compose, environment)


def _podman_socket(progress: Progress) -> Path:
    """Return a socket that speaks Docker's protocol, started when no service has one yet."""
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", "/run")) / "podman" / "podman.sock"
    if dockerd.answers(runtime):
        return runtime
    socket = build_dir() / "engine" / "podman.sock"
    if len(str(socket)) > _SOCKET_PATH_LIMIT:
        socket = runtime
    if not dockerd.answers(socket):
        progress(f"starting Podman's service on {socket}")
        socket.parent.mkdir(parents=True, exist_ok=True)
        log = build_dir() / "engine" / "podman.log"
        # It ends by itself after an hour without a request.
        dockerd.detach(["podman", "system", "service", "--time=3600", f"unix://{socket}"], log=log)
        limit = time.monotonic() + _PODMAN_START
        while not dockerd.answers(socket):
            if time.monotonic() > limit:
                output = log.read_text(errors="replace").strip()
                raise EngineUnavailableError(f"`podman system service` did not start: {output}")
            time.sleep(0.1)
    return socket


def _start_docker(progress: Progress) -> None:
    if dockerd.SOCKET.exists() and not os.access(dockerd.SOCKET, os.W_OK):
        raise EngineUnavailableError(
            f"{dockerd.SOCKET} is there, but this user may not use it; become root, or join its "
            f"group ({dockerd.SOCKET.group()}) and log in again"
        )
    program = dockerd.find()
    if program is None:
        if reason := debian.why_not_installable():
            raise EngineUnavailableError(
                f"no container engine is reachable, and {reason}\n{MANUAL_STEPS}"
            )
        debian.install(["docker.io"], why="no container engine is reachable", progress=progress)
        program = dockerd.find()
    if shutil.which("docker") is None:
        # From trixie on the client is a package of its own.
        debian.install(["docker-cli"], why="the docker command is missing", progress=progress)
    if program is None or os.geteuid() != 0:
        raise EngineUnavailableError(
            "the Docker engine is installed but does not run, and starting it needs root\n"
            f"{MANUAL_STEPS}"
        )
    if not dockerd.answers():
        dockerd.start(program, progress=progress)
