"""``hbzmq://`` in oslo.messaging: options, and one test of each kind of its functional suite."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.messaging.zmq.nodes import Node
from tests.stress.oslo.report import short
from tests.stress.oslo.run import MODELS, SUBSET, Cell, repeat, run

#: A service of a deployment with oslo.messaging 8.1.
FILE = Path(__file__).parents[1] / "messaging" / "zmq" / "oslo_messaging_8.conf"


@pytest.fixture
def nodes() -> Iterator[list[Node]]:
    """Hosts with the whole proxy; two, as the suite's topics have the same names in each run."""
    made = [Node() for _ in MODELS]
    for node in made:
        node.start(whole=True)
    yield made
    for node in made:
        node.close()


def loaded(file: str, *urls: str) -> list[dict[str, Any]]:
    program = str(Path(__file__).with_name("zmq_loading.py"))
    done = subprocess.run(
        [sys.executable, program, file, *urls], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_file_of_oslo_messaging_8_loads_with_another_scheme() -> None:
    url = "hbzmq+sentinel://:secret@ctl1:26379,:secret@ctl2:26379/oslo-messaging-zeromq"
    # Without a directory in the URL it is that of the other groups.
    found, former = loaded(str(FILE), url, "hbzmq://")
    assert found["address"] == "sentinel://ctl1:26379,ctl2:26379/oslo-messaging-zeromq"
    assert (found["password"], former["password"]) == ("secret", "secret/1")
    assert (found["host"], found["ipc"]) == ("compute-17", "/var/run/openstack")
    assert found["leases"] == [300.0, 180.0]
    assert found["acks"] == [True, 15.0, -1]
    assert {"rpc_zmq_host", "fanout_ds_address"} <= set(found["chosen"])
    assert "secret" not in str(found["warnings"])
    assert any("backend_port of [zmq_proxy_opts] has no effect" in x for x in found["warnings"])


def test_the_scheme_names_the_directory_and_what_cannot_be_used_is_named() -> None:
    *found, unknown, option = loaded(
        "",
        "hbzmq+redis://:a%2Fb@ds:6380/1",
        "hbzmq+redis://ds",
        "hbzmq+file:///etc/hosts.json",
        "hbzmq://host/",
        "hbzmq+etcd://host",
        "hbzmq://host/?zmq_call_ports=1",
    )
    assert [each["address"] for each in found] == [
        "redis://ds:6380/1",
        "redis://ds:6379/0",
        "/etc/hosts.json",
        None,
    ]
    assert "hbzmq+etcd:// names no directory" in unknown["error"]
    assert "zmq_call_ports" in option["error"]


def test_a_listener_may_requeue(nodes: list[Node]) -> None:
    program = str(Path(__file__).with_name("zmq_requeue.py"))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", program, nodes[0].url, nodes[0].ipc],
        capture_output=True,
        text=True,
        timeout=60,
    )
    first, second = (["notification " + number] * 3 for number in "01")
    assert done.stdout.splitlines() == [*first, "sent", *second, "sent"], done.stderr
    assert done.stderr == ""


@pytest.mark.alone
@pytest.mark.extended
def test_one_test_of_each_kind_passes(nodes: list[Node], tmp_path: Path) -> None:
    """In green threads and in native ones, with the newest oslo.messaging."""
    cells = [
        # Not in the URL: the suite looks for what is in its query among the options of all drivers.
        Cell(
            *("hbzmq", "18.3", model, Path(sys.executable), node.url),
            options=(("HBSHIM_ZMQ_RPC_ZMQ_IPC_DIR", node.ipc),),
        )
        for model, node in zip(MODELS, nodes, strict=True)
    ]
    for first in run(cells, tmp_path, only=SUBSET, parts=1, limit=200, side_by_side=2):
        outcome = repeat(first, tmp_path)
        assert outcome.failures() == [], outcome.texts
        assert sorted(map(short, outcome.tests)) == sorted(f"test_functional.{x}" for x in SUBSET)
        assert outcome.count("passed") == len(SUBSET), outcome.tests
