"""What a client of many hosts costs: descriptors, memory, and CPU time while it does nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.messaging.zmq.many_hosts import address
from tests.messaging.zmq.nodes import LIMIT

PROGRAM = Path(__file__).with_name("many_hosts.py")

#: What a client has beside its connections: its sockets, their monitors, and its own pairs.
BESIDE = 20


def costs(folder: Path, number: int) -> dict[str, Any]:
    """What a client prints that has called all hosts once."""
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": path}
    file = folder / "hosts.json"
    hosts = [
        {
            "host": f"host-{each}",
            "addresses": {"call": f"tcp://{address(each)}:9501"},
            "serves": [{"exchange": "openstack_rpc", "topic": "t"}],
        }
        for each in range(number)
    ]
    file.write_text(json.dumps({"hosts": hosts}))
    command = [sys.executable, str(PROGRAM), "proxies", str(number), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as proxies:
        try:
            assert proxies.stdout is not None
            assert proxies.stdout.readline() == "ready\n"
            done = subprocess.run(
                [sys.executable, str(PROGRAM), "client", str(file)],
                stdout=subprocess.PIPE,
                text=True,
                timeout=5 * LIMIT,
                env=environment,
                check=True,
            )
        finally:
            proxies.kill()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.extended
@pytest.mark.parametrize("number", [100, 500])
def test_a_client_of_many_hosts(number: int, tmp_path: Path) -> None:
    found = costs(tmp_path, number)
    assert number <= found["descriptors"] <= 1.1 * number + BESIDE
    assert found["bytes"] <= number * 64 * 1024
    # 0.5 % for 100 hosts on a machine that is not busy; there is room for one that is.
    assert found["idle"] <= 0.02 * number / 100
