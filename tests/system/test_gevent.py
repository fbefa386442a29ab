"""gevent on a real broker: hub running and parked, patched and not, each worker; one silence.

Beside the rows stands the same program without hbshim. A parked hub is a process whose
main thread waits in a native read, as Apache's does between two requests. A hub that runs
and is then blocked for several T: test_blocked_hub.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest

from tests.system.conftest import CommandError, RemoteClient, after_silence
from tests.waiting import wait_until
from wsgi_harness.observe.observation import BrokerView
from wsgi_harness.stack.broker import Broker

# A fleet of processes on two cores.
pytestmark = pytest.mark.alone

T = 2
#: RabbitMQ closes between 2 and 3 T after the last byte; two more for a busy machine.
SILENCE = 5 * T
LIBRARIES = ("amqp", "pika")
#: pika's own adapter for gevent, in a few rows.
ADAPTER = "pika-gevent"


@dataclass(frozen=True)
class Row:
    """One situation.

    Attributes:
        model: patched by gevent, or merely using it.
        hub: "runs" between two calls, or "parked".
        worker: what the user forces; None for hbshim's choice; "none" without hbshim.
        engines: the first engine, and the one that has the link in the end; None where
            RabbitMQ closes the connection.
    """

    model: str
    hub: str
    worker: str | None
    engines: tuple[str, str] | None

    @property
    def name(self) -> str:
        return f"{self.model}-{self.hub}-{self.worker or 'auto'}"


#: The watchdog notices that the hub stands still.
PARKED = Row("gevent", "parked", None, ("greenthread", "pthread"))
ALIVE = (
    Row("gevent", "runs", "greenthread", ("greenthread", "greenthread")),
    Row("gevent", "runs", "tpool", ("tpool", "tpool")),
    Row("gevent", "runs", "pthread", ("pthread", "pthread")),
    PARKED,
    Row("gevent", "parked", "pthread", ("pthread", "pthread")),
    Row("gevent-unpatched", "runs", None, ("pthread", "pthread")),
    Row("gevent-unpatched", "parked", None, ("pthread", "pthread")),
)
#: On a busy machine the hub's ticks may come late, and the link moves.
EITHER = Row("gevent", "runs", None, ("greenthread", "greenthread"))
CLOSED = (
    Row("gevent", "parked", "greenthread", None),
    Row("gevent", "parked", "tpool", None),
)
CONTROLS = (
    Row("gevent", "runs", "none", None),
    Row("gevent", "parked", "none", None),
    Row("gevent-unpatched", "parked", "none", None),
)
#: A control that lives where the machine lets it: pika's adapter for gevent has timers of its
#: own in the hub that runs.
SURVIVOR = (CONTROLS[0], ADAPTER)
CELLS = (
    *product((*ALIVE, EITHER, *CLOSED, *CONTROLS), LIBRARIES),
    *((row, ADAPTER) for row in (EITHER, PARKED, *CONTROLS[:2])),
)


class Cell:
    """One row with one library, in a process of its own."""

    def __init__(self, broker: Broker, row: Row, library: str) -> None:
        self.row = row
        self.client = RemoteClient(broker, row.model, library)

    def open(self) -> None:
        worker = self.row.worker
        shim = "none" if worker == "none" else "install"
        options = {} if worker in (None, "none") else {"worker": worker}
        self.client.open(heartbeat=T, shim=shim, options=options)
        if self.row.hub == "runs":
            self.client.send("run_hub")

    def do(self, command: str, **arguments: Any) -> Any:
        """Give a command; a hub that runs does so until it comes, and after its answer."""
        if self.row.hub != "runs":
            return self.client.do(command, **arguments)
        self.client.send(command, **arguments)
        try:
            self.client.answer()
            return self.client.answer()
        finally:
            self.client.send("run_hub")

    def look(self, listed: set[str | None], log: dict[str, BrokerView]) -> None:
        self.listed = self.client.name in listed
        self.missed_heartbeats = log[self.client.name].missed_heartbeats
        self.report = self.do("report")
        self.engine_of_link = self.do("engine_of_link")


@pytest.fixture(scope="module")
def cells(broker: Broker) -> Iterator[dict[tuple[Row, str], Cell]]:
    """Every row with every library, after the silence."""
    cells = {cell: Cell(broker, *cell) for cell in CELLS}
    try:
        for cell in cells.values():
            cell.open()
        listed, log = after_silence(broker, SILENCE)
        for cell in cells.values():
            cell.look(listed, log)
        yield cells
    finally:
        for cell in cells.values():
            cell.client.end()


def each_of(*rows: Row) -> pytest.MarkDecorator:
    """A test for each cell of these rows."""
    chosen = [cell for cell in CELLS if cell[0] in rows and cell != SURVIVOR]
    names = [f"{row.name}-{library}" for row, library in chosen]
    return pytest.mark.parametrize("cell", chosen, ids=names, indirect=True)


@pytest.fixture
def cell(request: pytest.FixtureRequest, cells: dict[tuple[Row, str], Cell]) -> Cell:
    """One cell of all."""
    return cells[request.param]


@each_of(*ALIVE, EITHER)
def test_kept_alive(cell: Cell) -> None:
    assert cell.listed
    assert not cell.missed_heartbeats
    (link,) = cell.report["links"]
    assert link["state"] == "alive"
    assert link["heartbeats_sent"] >= SILENCE / T
    cell.do("publish")
    wait_until(lambda: cell.do("count") == 1, 30)


@each_of(*ALIVE)
def test_the_worker_that_sends_heartbeats(cell: Cell) -> None:
    engines = (cell.report["workers"][0], cell.engine_of_link)
    assert engines == cell.row.engines
    moved = cell.report["counters"].get("event:worker-moved", 0)
    assert moved == (engines[0] != engines[1])


@each_of(EITHER)
def test_auto_begins_in_a_hub_that_runs(cell: Cell) -> None:
    assert cell.report["workers"][0] == "greenthread"


@each_of(*CLOSED)
def test_what_the_user_insists_on_dies_with_the_hub(cell: Cell) -> None:
    assert cell.report["workers"][0] == cell.row.worker
    assert cell.missed_heartbeats
    assert not cell.listed
    assert cell.report["counters"]["event:worker-late"] >= 1
    assert "event:worker-moved" not in cell.report["counters"]


@each_of(*CONTROLS)
def test_control_without_hbshim_is_closed_by_the_broker(cell: Cell) -> None:
    assert cell.report["links"] == []
    assert cell.missed_heartbeats
    assert not cell.listed

    def publishing_fails() -> bool:
        # Callbacks learn of it when their hub runs; what is published before is lost.
        cell.do("wait", seconds=0.05, how="hub")
        try:
            cell.do("publish")
        except CommandError:
            return True
        return False

    wait_until(publishing_fails, 30)


def test_control_that_may_survive_where_pikas_own_timers_run(
    cells: dict[tuple[Row, str], Cell],
) -> None:
    """On a machine that starves its process for 2 T it does not."""
    cell = cells[SURVIVOR]
    assert cell.report["links"] == []
    assert cell.listed or cell.missed_heartbeats
