"""A cluster of three RabbitMQ nodes in containers, whose nodes can be made to fail."""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import requests

from wsgi_harness.engine.commands import Progress, run, silent
from wsgi_harness.engine.engine import Engine
from wsgi_harness.errors import CommandError, NotReadyError, StackError
from wsgi_harness.paths import CONTAINERS
from wsgi_harness.stack import leftovers, services
from wsgi_harness.stack.broker import Broker, wait_until
from wsgi_harness.stack.lifetime import UpAndDown
from wsgi_harness.stack.signals import undisturbed

NODES = ("n1", "n2", "n3")
"""Names of the nodes: of their services, of their hosts, and behind `rabbit@`."""

_HOST = "127.0.0.1"
_UP_LIMIT = 180.0
_FORM_LIMIT = 180.0
_DOWN_LIMIT = 120.0
_COMMAND_LIMIT = 60.0
_SHOWN_LINES = 15


@dataclass(frozen=True)
class _Ports:
    amqp: int
    management: int


class Cluster(UpAndDown):
    """Three nodes of one run, as a context manager: one cluster on entry, gone on exit.

    A node keeps its data and its ports while it is dead. A partition that leaves a node alone
    pauses that node (`pause_minority`); a node that does not answer is taken for dead after 8 s.

    Parameters:
        project: name of the Compose project, see `wsgi_harness.stack.stack.project_name`.
        image: the broker's image; one of hbshim's own.
        heartbeat: T that the nodes suggest, in seconds.
        progress: called with a line for each thing that takes time.
    """

    def __init__(
        self,
        project: str,
        engine: Engine,
        image: str,
        *,
        heartbeat: int = 20,
        progress: Progress = silent,
    ) -> None:
        self.project = project
        self._engine = engine
        self._progress = progress
        self._password = secrets.token_urlsafe(18)
        self._ports: dict[str, _Ports] = {}
        self._environment = {
            "HBSHIM_RABBITMQ_IMAGE": image,
            "HBSHIM_BROKER_USER": services.USER,
            "HBSHIM_BROKER_PASSWORD": self._password,
            "HBSHIM_BROKER_HEARTBEAT": str(heartbeat),
            "HBSHIM_ERLANG_COOKIE": secrets.token_hex(24),
            "HBSHIM_OWNER": leftovers.owner(),
        }

    def up(self) -> None:
        """Start the nodes and return once they have formed one cluster.

        Raises:
            StackError: they have not; the message has the end of a log.
        """
        leftovers.remove(self._engine, progress=self._progress)
        self._progress("starting a cluster of three brokers")
        self._choose_ports()
        try:
            self._compose("up", "--detach", "--no-build", *NODES, timeout=_UP_LIMIT)
        except CommandError as error:
            raise StackError(f"the cluster did not start: {error}") from error
        self.await_formed()

    def down(self) -> None:
        """Remove containers, networks and volumes; does nothing where nothing is up."""
        if not self._ports:
            return
        with undisturbed():
            self._progress("removing the cluster")
            leftovers.take_down(self._engine, self.project)
            self._ports = {}

    def url(self, scheme: str = "amqp", *, first: str = NODES[0], **query: object) -> str:
        """Return a URL that names every node; it holds the password, so never print it.

        Parameters:
            first: the node that the URL begins with; the others follow in their order.
            query: options of a messaging driver.
        """
        names = [first, *(name for name in NODES if name != first)]
        login = f"{services.USER}:{quote(self._password, safe='')}"
        hosts = ",".join(f"{login}@{_HOST}:{self._ports[name].amqp}" for name in names)
        options = "&".join(f"{key}={value}" for key, value in query.items())
        return f"{scheme}://{hosts}/" + (f"?{options}" if options else "")

    def node(self, name: str) -> Broker:
        """Return one node: its ports, its management API, its log."""
        ports = self._ports[name]
        return Broker(
            host=_HOST,
            amqp_port=ports.amqp,
            management_url=f"http://{_HOST}:{ports.management}",
            user=services.USER,
            password=self._password,
            read_log=lambda: self.log(name),
        )

    def node_at(self, port: int) -> str:
        """Return the name of the node that listens for AMQP at a port of this machine."""
        return next(name for name, ports in self._ports.items() if ports.amqp == port)

    def log(self, name: str) -> str:
        """Return what a node wrote to standard output and error so far."""
        argv = [*self._engine.client, "logs", self._container(name)]
        return run(argv, timeout=_COMMAND_LIMIT, env=self._engine.environment, merge_stderr=True)

    # -- faults --------------------------------------------------------------

    def kill(self, name: str) -> None:
        """End a node on the spot, as a power cut of its machine does."""
        self._compose("kill", name)

    def stop(self, name: str) -> None:
        """Stop a node in an orderly way."""
        self._compose("stop", name)

    def start(self, name: str, *, wait: bool = True) -> None:
        """Start a node that was killed or stopped.

        Parameters:
            wait: return only when it is back in the cluster.
        """
        self._compose("start", name)
        if wait:
            self.await_formed()

    def restart(self, name: str) -> None:
        """Stop a node in an orderly way and start it; return when it is back in the cluster."""
        self.stop(name)
        self.start(name)

    def partition(self, name: str) -> None:
        """Cut a node off from the others; its clients still reach it. Packets are dropped."""
        self._engine.run("network", "disconnect", f"{self.project}_nodes", self._container(name))

    def heal(self, name: str) -> None:
        """Reconnect a node that was cut off; return when it is back in the cluster."""
        self._engine.run(
            "network", "connect", "--alias", name, f"{self.project}_nodes", self._container(name)
        )
        self.await_formed()

    def ctl(self, name: str, *arguments: str) -> str:
        """Run rabbitmqctl in a node that runs; return what it prints."""
        # The cookie that lets the tool in lies in this directory.
        inside = ("env", "HOME=/var/lib/rabbitmq", "rabbitmqctl", *arguments)
        return self._compose("exec", "-T", name, *inside)

    def await_formed(self, nodes: tuple[str, ...] = NODES, limit: float = _FORM_LIMIT) -> None:
        """Return when each of `nodes` sees exactly these nodes run and accepts connections.

        Raises:
            StackError: that is not so after `limit` seconds; with the end of a log.
        """
        deadline = time.monotonic() + limit
        for name in nodes:
            try:
                wait_until(self._sees(name, nodes), max(1.0, deadline - time.monotonic()))
            except NotReadyError as error:
                tail = "\n".join(self.log(name).splitlines()[-_SHOWN_LINES:])
                raise StackError(f"{error}; its log ends with:\n{tail}") from error

    def _sees(self, name: str, nodes: tuple[str, ...]) -> Callable[[], None]:
        wanted = {f"rabbit@{each}" for each in nodes}

        def check() -> None:
            broker = self.node(name)
            try:
                found = broker.management.get("nodes")
            except requests.RequestException as error:
                raise NotReadyError(f"{name}: the management API does not answer") from error
            running = {each["name"] for each in found if each["running"]}
            if running != wanted:
                raise NotReadyError(f"{name} sees {sorted(running)} run, not {sorted(wanted)}")
            broker.check_ready()

        return check

    # -- what the cluster knows ----------------------------------------------

    def queue(self, name: str, *, ask: str | None = None) -> Mapping[str, Any]:
        """Return a queue as the management API has it.

        Parameters:
            ask: the node to ask; any that answers when left out.
        """
        path = f"queues/%2F/{quote(name, safe='')}"
        found: Mapping[str, Any]
        for node in (ask,) if ask else NODES:
            try:
                found = self.node(node).management.get(path)
            except requests.ConnectionError:
                continue
            return found
        raise StackError("no node of the cluster answers")

    def home(self, queue: str) -> str:
        """Return the node that leads a quorum queue, or that a classic queue is on."""
        found = self.queue(queue)
        name: str = found.get("leader") or found["node"]
        return name.removeprefix("rabbit@")

    # -- the engine ----------------------------------------------------------

    def _choose_ports(self) -> None:
        with contextlib.ExitStack() as bound:
            sockets = [bound.enter_context(socket.socket()) for _ in range(2 * len(NODES))]
            for sock in sockets:
                sock.bind((_HOST, 0))
            free = [sock.getsockname()[1] for sock in sockets]
        for number, name in enumerate(NODES, 1):
            ports = self._ports[name] = _Ports(free.pop(), free.pop())
            self._environment[f"HBSHIM_AMQP_PORT_{number}"] = str(ports.amqp)
            self._environment[f"HBSHIM_MANAGEMENT_PORT_{number}"] = str(ports.management)

    def _container(self, name: str) -> str:
        return f"{self.project}-{name}-1"

    def _compose(self, *argv: str, timeout: float = _COMMAND_LIMIT) -> str:
        files = ("--ansi", "never", "--file", CONTAINERS / "cluster.yaml")
        return run(
            [*self._engine.compose, "--project-name", self.project, *files, *argv],
            timeout=timeout,
            env={**self._engine.environment, **self._environment},
        )
