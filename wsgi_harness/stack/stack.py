"""The containers of one run: the broker, and an Apache per cell; the only caller of Compose."""

from __future__ import annotations

import functools
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import requests
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from wsgi_harness.engine.commands import Progress, run, silent
from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import Images, prepare
from wsgi_harness.errors import CommandError, NotReadyError, StackError
from wsgi_harness.paths import CONTAINERS, build_dir
from wsgi_harness.stack import leftovers, services
from wsgi_harness.stack.broker import Broker, wait_until
from wsgi_harness.stack.lifetime import UpAndDown
from wsgi_harness.stack.services import BROKER, CellService
from wsgi_harness.stack.signals import undisturbed

__all__ = ["BROKER", "CellService", "Stack", "project_name"]

CA_FILE = "/etc/rabbitmq/tls/ca.pem"
_HOST = "127.0.0.1"
_UP_LIMIT = 180.0
_READY_LIMIT = 90.0
_DOWN_LIMIT = 120.0
_EXEC_LIMIT = 60.0
_LOOK_EVERY = 2.0
_FREEZE_TRIES = 5
_SHOWN_LINES = 15
_NOT_UP = "no containers are up; use the stack in a with statement"


def project_name(purpose: str) -> str:
    """Return a Compose project name that no other run, and no second call, has."""
    return f"hbshim-{purpose}-{os.getpid()}-{secrets.token_hex(3)}"


def read_logs(engine: Engine, project: str, service: str) -> str:
    """Return what the container of a service wrote to standard output and error so far."""
    argv = [*engine.client, "logs", f"{project}-{service}-1"]
    return run(argv, timeout=_EXEC_LIMIT, env=engine.environment, merge_stderr=True)


class Stack(UpAndDown):
    """Containers of one run, as a context manager: up on entry, gone on exit.

    They are gone too after an error, Ctrl-C, SIGTERM or SIGHUP; what a SIGKILL leaves behind is
    removed by the next run.

    Parameters:
        project: name of the Compose project, see `project_name`.
        rabbitmq_image: an image to use as the broker instead of hbshim's own; it has to take
            `RABBITMQ_DEFAULT_USER` and `/etc/rabbitmq/conf.d` as Docker's official one does.
        further_brokers: images of hbshim's own for more brokers, by the service's name.
        heartbeat: T that the brokers suggest, in seconds.
        prepared: an engine and images that are ready, where the caller has them.
        progress: called with a line for each thing that takes time.

    Raises:
        StackError: a cell's name cannot be used.
    """

    def __init__(
        self,
        project: str,
        cells: Sequence[CellService] = (),
        *,
        rabbitmq_image: str | None = None,
        further_brokers: Mapping[str, str] | None = None,
        heartbeat: int = 4,
        prepared: tuple[Engine, Images] | None = None,
        progress: Progress = silent,
    ) -> None:
        self._further = dict(further_brokers or {})
        services.check_names(cells, self._further)
        self.project = project
        self._cells = tuple(cells)
        self._rabbitmq_image = rabbitmq_image
        self._heartbeat = heartbeat
        self._prepared = prepared
        self._progress = progress
        self._password = secrets.token_urlsafe(18)
        self._environment: dict[str, str] = {}
        self._engine: Engine | None = None
        self._brokers: dict[str, Broker] = {}
        self._containers: dict[str, dict[str, Any]] = {}

    def up(self) -> None:
        """Start every container and return once the broker and each cell answer.

        Raises:
            EngineUnavailableError: no container engine can be had.
            ImageError: an image cannot be had.
            StackError: a container did not come up; the message has the end of its log.
        """
        self._engine, images = self._prepared or prepare(
            rabbitmq_image=self._rabbitmq_image, progress=self._progress
        )
        leftovers.remove(self._engine, progress=self._progress)
        brokers = [BROKER, *self._further]
        shown = "the broker" if len(brokers) == 1 else f"{len(brokers)} brokers"
        self._progress(f"starting {shown} and {len(self._cells)} cells")
        self._environment = services.environment(images, self._password, self._heartbeat)
        self._directory.mkdir(parents=True, exist_ok=True)
        override = services.override(
            self._cells, images, self._heartbeat, self._directory, self._further
        )
        self._override_file.write_text(json.dumps(override, indent=2))
        names = [*brokers, *(cell.name for cell in self._cells)]
        try:
            self._compose("up", "--detach", "--no-build", *names, timeout=_UP_LIMIT)
        except CommandError as error:
            raise StackError(f"the containers did not start: {error}") from error
        self._containers = self._list_containers()
        for name in names:
            self._check_running(name)
        for name in brokers:
            own = name != BROKER or images.own_rabbitmq
            self._brokers[name] = broker = self._describe_broker(name, own=own)
            self._wait(name, broker.check_ready)
        for cell in self._cells:
            if not cell.entrypoint:
                self._wait(cell.name, functools.partial(self._check_cell, cell.name))

    def down(self) -> None:
        """Remove containers, networks and volumes; does nothing where nothing is up.

        A network that Docker refuses to remove is left to a later run.
        """
        with undisturbed():
            if self._override_file.exists():
                self._progress("removing the containers")
                everything = ("--volumes", "--remove-orphans", "--timeout", "0")
                try:
                    self._compose("down", *everything, timeout=_DOWN_LIMIT)
                except CommandError as error:
                    self._leave_a_network_or_raise(error)
            shutil.rmtree(self._directory, ignore_errors=True)
            self._brokers, self._containers = {}, {}

    @property
    def broker(self) -> Broker:
        """The broker; raises `StackError` while nothing is up."""
        return self.brokers[BROKER]

    @property
    def brokers(self) -> Mapping[str, Broker]:
        """Every broker by its service's name; raises `StackError` while nothing is up."""
        if not self._brokers:
            raise StackError(_NOT_UP)
        return self._brokers

    def cell_url(self, name: str) -> str:
        """Return the URL of a cell's root, without a slash at its end."""
        return f"http://{_HOST}:{self._port(name, 80)}"

    def exec(self, service: str, argv: Sequence[str], *, timeout: float = _EXEC_LIMIT) -> str:
        """Run a command in a service's container and return its standard output.

        Raises:
            CommandError: it failed, or took longer than `timeout` seconds.
        """
        return self._compose("exec", "-T", service, *argv, timeout=timeout)

    def logs(self, service: str) -> str:
        """Return what a service wrote to standard output and error so far."""
        if self._engine is None:
            raise StackError(_NOT_UP)
        # Not Compose's own logs: they add control characters.
        return read_logs(self._engine, self.project, service)

    def pause(self, service: str) -> None:
        """Freeze every process of a service; its kernel still acknowledges what arrives."""
        # runc gives up freezing ("unable to freeze") when processes are born meanwhile.
        for attempt in Retrying(
            stop=stop_after_attempt(_FREEZE_TRIES),
            wait=wait_fixed(0.2),
            retry=retry_if_exception_type(CommandError),
            reraise=True,
        ):
            with attempt:
                self._compose("pause", service)

    def unpause(self, service: str) -> None:
        """Let a frozen service go on."""
        self._compose("unpause", service)

    def kill(self, service: str) -> None:
        """End every process of a service on the spot, as a power cut does."""
        try:
            self._compose("kill", service)
        except CommandError as error:
            # On a busy machine the engine stops waiting for the end that it has brought about.
            refused = NotReadyError(str(error))

            def check_it_ended() -> None:
                if self._list_containers()[service]["State"] != "exited":
                    raise refused

            wait_until(check_it_ended, _EXEC_LIMIT)

    def start(self, service: str) -> None:
        """Start a service that was killed; return once it answers, maybe at other ports."""
        self._compose("start", service)
        self._containers = self._list_containers()
        self._check_running(service)
        if (known := self._brokers.get(service)) is not None:
            self._brokers[service] = broker = self._describe_broker(
                service, own=known.tls_port is not None
            )
            self._wait(service, broker.check_ready)
        else:
            self._wait(service, functools.partial(self._check_cell, service))

    def _leave_a_network_or_raise(self, error: CommandError) -> None:
        engine = self._engine
        if engine is None or not leftovers.only_its_network_stayed(engine, self.project, error):
            raise error
        self._progress(
            f"the engine keeps the network of {self.project} although its containers are gone; "
            "a later run removes it, once the engine lets it go"
        )

    @property
    def _directory(self) -> Path:
        return build_dir() / "stacks" / self.project

    @property
    def _override_file(self) -> Path:
        return self._directory / "cells.json"

    def _compose(self, *argv: str, timeout: float = _EXEC_LIMIT) -> str:
        if self._engine is None:
            raise StackError(_NOT_UP)
        files = (
            "--ansi",
            "never",
            "--file",
            CONTAINERS / "compose.yaml",
            "--file",
            self._override_file,
        )
        return run(
            [*self._engine.compose, "--project-name", self.project, *files, *argv],
            timeout=timeout,
            env={**self._engine.environment, **self._environment},
        )

    def _list_containers(self) -> dict[str, dict[str, Any]]:
        # One question for all of them: `compose port` would be a process for each.
        listed = self._compose("ps", "--all", "--format", "json").strip()
        if listed.startswith("["):  # Compose before 2.21
            containers: list[dict[str, Any]] = json.loads(listed)
        else:
            containers = [json.loads(line) for line in listed.splitlines()]
        return {container["Service"]: container for container in containers}

    def _port(self, service: str, inside: int) -> int:
        if not self._containers:
            raise StackError(_NOT_UP)
        for port in self._containers.get(service, {}).get("Publishers") or ():
            if port["TargetPort"] == inside and port["PublishedPort"]:
                return int(port["PublishedPort"])
        known = ", ".join(sorted(self._containers))
        raise StackError(f"no service {service!r} with a port {inside}; the services are {known}")

    def _describe_broker(self, name: str, *, own: bool) -> Broker:
        return Broker(
            host=_HOST,
            amqp_port=self._port(name, 5672),
            tls_port=self._port(name, 5671) if own else None,
            management_url=f"http://{_HOST}:{self._port(name, 15672)}",
            user=services.USER,
            password=self._password,
            read_log=lambda: self.logs(name),
            read_ca=(lambda: self.exec(name, ["cat", CA_FILE])) if own else None,
        )

    def _check_cell(self, name: str) -> None:
        try:
            url = self.cell_url(name)
        except StackError as error:
            # a container that has just ended publishes nothing; `_wait` looks for that
            raise NotReadyError(str(error)) from error
        try:
            # httpd answers this itself; no Python runs, and nothing wakes up
            response = requests.get(f"{url}/-/alive", timeout=10)
        except requests.RequestException as error:
            raise NotReadyError(f"{name} does not answer") from error
        if response.status_code != requests.codes.no_content:
            raise NotReadyError(f"{name} answers with status {response.status_code}")

    def _wait(self, service: str, check: Callable[[], None]) -> None:
        look_again = time.monotonic() + _LOOK_EVERY

        def check_it_runs_and_answers() -> None:
            nonlocal look_again
            try:
                check()
            except NotReadyError:
                if time.monotonic() >= look_again:
                    self._containers = self._list_containers()
                    self._check_running(service)
                    look_again = time.monotonic() + _LOOK_EVERY
                raise

        try:
            wait_until(check_it_runs_and_answers, _READY_LIMIT)
        except NotReadyError as error:
            raise StackError(self._with_log(service, str(error))) from error

    def _check_running(self, service: str) -> None:
        container = self._containers[service]
        if container["State"] == "exited":
            ended = f"{service} ended with status {container['ExitCode']}"
            raise StackError(self._with_log(service, ended))

    def _with_log(self, service: str, message: str) -> str:
        tail = "\n".join(self.logs(service).splitlines()[-_SHOWN_LINES:])
        return f"{message}; its log ends with:\n{tail}"
