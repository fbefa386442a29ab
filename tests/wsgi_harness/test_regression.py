"""The regression itself, on a few cells: real Apache, real mod_wsgi, real RabbitMQ."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wsgi_harness.engine.engine import Engine
from wsgi_harness.matrix.scenarios import SILENCE

HEARTBEAT = 4
CELLS = ("none-kombu", "none-pika", "green-kombu", "hbshim-auto-kombu", "hbshim-auto-pika")
STOCK = "stock-rabbit-oslo"
#: The control and the fix on each further version of RabbitMQ.
VERSIONS = {
    version: (f"none-kombu-{key}", f"hbshim-auto-pika-{key}")
    for version, key in (("3.10", "rabbitmq310"), ("4.3", "rabbitmq43"))
}
DRIVERS = (
    "hbshim-hbrabbit-oslo",
    "hbshim-hbkombu-oslo",
    "hbshim-hbpika-oslo",
    "hbshim-hybrid-hybrid",
)
#: Over AMQP 1.0: on RabbitMQ and on a router, with proton and with oslo.messaging's old driver.
AMQP1_CONTROLS = ("none-proton-amqp1", "none-proton-router", "stock-amqp-oslo14")
AMQP1_FIXES = (
    "hbshim-auto-proton-amqp1",
    "hbshim-auto-amqp-oslo14",
    "hbshim-hbamqp-oslo-router",
)
COMMAND = (sys.executable, "-c", "from wsgi_harness.cli import main; main()")
LIMIT = 300.0

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("regression") / "report"


@pytest.fixture(scope="module")
def finished(prepared: object, report: Path) -> subprocess.CompletedProcess[str]:
    """The console script, run to its end."""
    further = [cell for cells in VERSIONS.values() for cell in cells]
    further += [*AMQP1_CONTROLS, *AMQP1_FIXES]
    chosen = [f"--scenario={cell}" for cell in (*CELLS, STOCK, *DRIVERS, *further)]
    return subprocess.run(
        [*COMMAND, *chosen, f"--heartbeat={HEARTBEAT}", "--json", f"--report={report}"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


@pytest.fixture(scope="module")
def cells(finished: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    data = json.loads(finished.stdout)
    return {cell["name"]: cell for cell in data["cells"]}


def test_every_expectation_is_met_and_the_exit_code_says_so(
    finished: subprocess.CompletedProcess[str],
) -> None:
    data = json.loads(finished.stdout)

    assert [(cell["name"], cell["why"]) for cell in data["cells"] if not cell["ok"]] == []
    assert finished.returncode == 0, finished.stderr
    assert data["exit_code"] == 0


@pytest.mark.parametrize("name", ["none-kombu", "none-pika", "green-kombu"])
def test_a_control_is_closed_by_the_broker_for_missed_heartbeats(
    cells: dict[str, dict[str, Any]], name: str
) -> None:
    cell = cells[name]

    assert cell["outcome"] == "expected_failure"
    assert cell["broker"]["reason"] == f"missed heartbeats from client, timeout: {HEARTBEAT}s"
    assert cell["wire"]["client_heartbeats"] == []
    assert cell["failed_requests"] == 1
    assert cell["lost_messages"] > 0


def test_oslo_messagings_own_driver_loses_every_connection_and_hides_it(
    cells: dict[str, dict[str, Any]],
) -> None:
    cell = cells[STOCK]

    assert cell["outcome"] == "expected_failure"
    assert cell["broker"]["reason"] == f"missed heartbeats from client, timeout: {HEARTBEAT}s"
    kept = cell["broker"]["kept"]
    closed = [life["closed"] for life in cell["broker"]["lives"][:kept]]
    assert kept >= 2
    assert all(closed)
    assert max(closed) < cell["silence"][1]
    assert cell["broker"]["connections"] > kept


@pytest.mark.parametrize("name", AMQP1_CONTROLS)
def test_a_control_over_amqp_1_0_is_closed_by_its_peer(
    cells: dict[str, dict[str, Any]], name: str
) -> None:
    cell = cells[name]
    reason = "no frame received from client" if name.endswith("amqp1") else "local-idle-timeout"

    assert cell["outcome"] == "expected_failure"
    assert reason in cell["broker"]["reason"]
    # proton sends one in the second request, when its loop runs again.
    began, ended = cell["silence"]
    assert [at for at in cell["wire"]["client_heartbeats"] if began < at < ended] == []
    assert cell["failed_requests"] == 1


@pytest.mark.parametrize("name", AMQP1_FIXES)
def test_hbshim_keeps_connections_over_amqp_1_0(
    cells: dict[str, dict[str, Any]], name: str
) -> None:
    cell = cells[name]

    assert cell["outcome"] == "pass"
    assert cell["broker"]["closed"] is None
    assert cell["messages"]["arrived"] == cell["messages"]["asked"] > 0
    # The peer advertises T/2, so one in T at the very least.
    assert len(cell["wire"]["client_heartbeats"]) >= SILENCE - 1


@pytest.mark.parametrize("name", DRIVERS)
def test_hbshims_drivers_keep_every_connection(cells: dict[str, dict[str, Any]], name: str) -> None:
    broker = cells[name]["broker"]

    assert broker["connections"] == broker["kept"] == len(broker["lives"]) >= 2
    assert [life["closed"] for life in broker["lives"]] == [None] * broker["kept"]
    assert cells[name]["messages"]["arrived"] == cells[name]["messages"]["asked"] > 0


@pytest.mark.parametrize("name", ["hbshim-auto-kombu", "hbshim-auto-pika", *DRIVERS])
def test_hbshim_holds_the_connection(cells: dict[str, dict[str, Any]], name: str) -> None:
    cell = cells[name]

    assert cell["outcome"] == "pass"
    assert cell["broker"]["closed"] is None
    assert cell["failed_requests"] == 0
    assert cell["lost_messages"] == 0
    # One heartbeat in T at the very least, whatever the machine was busy with.
    assert len(cell["wire"]["client_heartbeats"]) >= SILENCE - 1
    assert cell["shim"]["detected"]["choice"]["worker"] == "pthread"
    assert cell["shim"]["detected"]["host"]["mode"] == "embedded"
    assert cell["shim"]["detected"]["host"]["mpm"] == "prefork"
    assert cell["shim"]["detected"]["hub"] == "parked"


@pytest.mark.parametrize("version", VERSIONS)
def test_other_versions_of_rabbitmq_do_the_same(
    finished: subprocess.CompletedProcess[str], cells: dict[str, dict[str, Any]], version: str
) -> None:
    if f"RabbitMQ {version}, which cannot be had" in finished.stderr:
        pytest.skip(f"RabbitMQ {version} cannot be had here")
    control, fix = (cells[name] for name in VERSIONS[version])

    assert control["outcome"] == "expected_failure"
    assert control["broker"]["reason"] == f"missed heartbeats from client, timeout: {HEARTBEAT}s"
    assert fix["outcome"] == "pass"
    assert fix["messages"]["arrived"] == fix["messages"]["asked"] > 0
    assert f", {version}." in json.loads(finished.stdout)["broker"]


def test_green_threads_stood_still_and_native_ones_did_not(
    cells: dict[str, dict[str, Any]],
) -> None:
    for cell in cells.values():
        began, ended = cell["silence"]
        assert cell["green"]["worst"] > 0.9 * (ended - began)
        assert cell["native"]["worst"] < cell["green"]["worst"] / 2


def test_nobody_asked_the_cells_anything_in_the_silence(cells: dict[str, dict[str, Any]]) -> None:
    for cell in cells.values():
        began, ended = cell["silence"]
        assert ended - began >= SILENCE * HEARTBEAT
        assert [request["kind"] for request in cell["requests"]] == ["open", "publish"]


def test_the_report_is_written_and_holds_no_secret(
    finished: subprocess.CompletedProcess[str], report: Path
) -> None:
    page = (report / "index.html").read_text(encoding="utf-8")
    data = (report / "results.json").read_text(encoding="utf-8")

    assert json.loads(data) == json.loads(finished.stdout)
    for text in (page, data, finished.stdout, finished.stderr):
        assert not re.search(r"amqp://[^/\s]*@", text)


def test_ctrl_c_removes_everything(prepared: object, engine: Engine, tmp_path: Path) -> None:
    command = [*COMMAND, "--scenario=none-kombu", f"--report={tmp_path}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        printed = []
        for line in process.stderr:
            printed.append(line)
            if line.startswith("silence"):
                break
        assert ours(engine, process.pid) != "", "".join(printed)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
        process.stderr.close()

    assert ours(engine, process.pid) == ""


def ours(engine: Engine, pid: int) -> str:
    """The containers and networks of the run with this process."""
    name = f"--filter=name=hbshim-regression-{pid}-"
    return engine.run("ps", "--all", "--quiet", name) + engine.run("network", "ls", "--quiet", name)
