"""One silence over TLS: both versions and libraries, every model, consumers and publishers.

Beside each cell stands the same program without hbshim, which RabbitMQ must close unless its
library keeps it alive. A process holds one connection of each TLS version. The publishers'
processes are blocked in a native read, so the hub of a green one is parked; the consumers'
hubs run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any, TypeAlias

import pika
import pytest

from tests.system.conftest import MODELS, RemoteClient, after_silence
from wsgi_harness.observe.observation import BrokerView
from wsgi_harness.stack.broker import Broker

# A fleet of processes on two cores.
pytestmark = pytest.mark.alone

T = 2
#: RabbitMQ closes between 2 and 3 T after the last byte; two more for a busy machine.
SILENCE = 5 * T
VERSIONS = ("TLSv1_2", "TLSv1_3")
LIBRARIES = ("amqp", "pika")
ROLES = ("consumer", "publisher")

#: A control that lives where the machine lets it, and why it does.
SURVIVORS = {
    ("pika", "consumer"): "pika's own timer sends heartbeats while process_data_events waits"
}


@dataclass
class Told:
    """What one connection showed after the silence."""

    name: str
    version: str
    listed: bool
    missed_heartbeats: bool = False
    link: dict[str, Any] | None = None
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def works(self) -> bool:
        return bool(self.result.get("consumed") or self.result.get("arrived"))


#: By (model, library, role, shim, version).
Cells: TypeAlias = dict[tuple[str, ...], Told]


class Process:
    """One process of the matrix: a connection of each TLS version, in one role."""

    def __init__(
        self, broker: Broker, ca_file: str, model: str, library: str, role: str, shim: str
    ) -> None:
        self.key = (model, library, role, shim)
        self.role, self.shim = role, shim
        self.client = RemoteClient(broker, model, library, "tls_agent.py")
        self.names = {version: f"{self.client.name}-{role}-{version}" for version in VERSIONS}
        openings = [
            {
                "host": "127.0.0.1",
                "port": broker.tls_port,
                "user": broker.user,
                "password": broker.password,
                "heartbeat": T,
                "ca_file": ca_file,
                "tls_version": version,
                "name": name,
            }
            for version, name in self.names.items()
        ]
        self.client.send("open_all", openings=openings, shim=shim)

    def opened(self) -> None:
        self.sessions = self.client.answer(120)
        if self.role == "consumer":
            self.client.send("consume_all", limit=6 * SILENCE)

    def ask(self) -> None:
        if self.role == "publisher":
            self.client.send("publish_all")

    def reported(self, listed: set[str | None], log: dict[str, BrokerView]) -> dict[str, Told]:
        results = self.client.answer(120)
        links = self.client.do("report")["links"] or [None] * len(VERSIONS)
        return {
            version: Told(
                name,
                session["version"],
                name in listed,
                log[name].missed_heartbeats,
                link,
                result,
            )
            for (version, name), session, link, result in zip(
                self.names.items(), self.sessions, links, results, strict=True
            )
        }


@pytest.fixture(scope="module")
def reported(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cells]:
    """Everything that every cell showed, by (model, library, role, shim, version)."""
    ca_file = tmp_path_factory.mktemp("ca") / "ca.pem"
    assert broker.ca_pem
    ca_file.write_text(broker.ca_pem)
    processes = []
    try:
        for shim in ("install", "none"):
            for model in MODELS:
                for library in LIBRARIES:
                    for role in ROLES:
                        process = Process(broker, str(ca_file), model, library, role, shim)
                        processes.append(process)
        for process in processes:
            process.opened()
        listed, log = after_silence(broker, SILENCE)
        send_to_consumers(broker, processes)
        for process in processes:
            process.ask()
        yield {
            (*process.key, version): cell
            for process in processes
            for version, cell in process.reported(listed, log).items()
        }
    finally:
        for process in processes:
            process.client.end()


def send_to_consumers(broker: Broker, processes: list[Process]) -> None:
    """One message for each consumer, through a connection of the test's own."""
    with pika.BlockingConnection(pika.URLParameters(broker.amqp_url(heartbeat=0))) as connection:
        channel = connection.channel()
        for process in processes:
            if process.role == "consumer":
                for session in process.sessions:
                    channel.basic_publish("", session["queue"], b"after the silence")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("model", MODELS)
def test_kept_alive(reported: Cells, model: str, library: str, role: str, version: str) -> None:
    cell = reported[model, library, role, "install", version]
    assert cell.version == version.replace("_", ".")
    assert cell.listed, cell
    assert cell.works, cell
    assert cell.link is not None
    assert (cell.link["state"], cell.link["route"]) == ("alive", "tls"), cell
    # One at each T/2 of silence; half of them, for a busy machine.
    assert cell.link["heartbeats_sent"] >= SILENCE / T, cell


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("library", "role"), [cell for cell in product(LIBRARIES, ROLES) if cell not in SURVIVORS]
)
@pytest.mark.parametrize("model", MODELS)
def test_control_is_closed_by_the_broker(
    reported: Cells, model: str, library: str, role: str, version: str
) -> None:
    cell = reported[model, library, role, "none", version]
    assert cell.link is None
    assert cell.missed_heartbeats, cell
    assert not cell.listed, cell
    assert not cell.works, cell
    assert cell.result["error"], cell


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("library", "role"), SURVIVORS)
@pytest.mark.parametrize("model", MODELS)
def test_control_that_may_survive(
    reported: Cells, model: str, library: str, role: str, version: str
) -> None:
    """On a machine that starves its process for 2 T it does not, and then it reports that."""
    cell = reported[model, library, role, "none", version]
    assert cell.link is None
    assert cell.works == (not cell.result["error"]), cell
