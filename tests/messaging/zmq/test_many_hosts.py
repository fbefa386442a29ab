"""What a client of many hosts costs: descriptors, memory, and CPU time while it does nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from tests.messaging.zmq.many_hosts import PUBLISHED, address
from tests.messaging.zmq.nodes import LIMIT

PROGRAM = Path(__file__).with_name("many_hosts.py")

#: What a client has beside its connections: its sockets, their monitors, and its own pairs.
BESIDE = 20


def costs(folder: Path, number: int) -> dict[str, Any]:
    """What a client prints that has called all hosts once."""
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
    with running("proxies", str(number), str(folder)):
        return printed("client", str(file))


@contextmanager
def running(*arguments: str) -> Iterator[IO[str]]:
    """The output of the program, once it is ready."""
    command = [sys.executable, str(PROGRAM), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process.stdout
        finally:
            process.kill()


def printed(*arguments: str) -> dict[str, Any]:
    """What the program prints."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        timeout=5 * LIMIT,
        env=environment(),
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


@pytest.mark.extended
@pytest.mark.parametrize("number", [100, 500])
def test_a_client_of_many_hosts(number: int, tmp_path: Path) -> None:
    found = costs(tmp_path, number)
    assert number <= found["descriptors"] <= 1.1 * number + BESIDE
    assert found["bytes"] <= number * 64 * 1024
    # 0.5 % for 100 hosts on a machine that is not busy; there is room for one that is.
    assert found["idle"] <= 0.02 * number / 100


@pytest.mark.extended
def test_a_publisher_to_many_hosts(tmp_path: Path) -> None:
    number = 500
    tmp_path.chmod(0o700)
    with running("listeners", str(number), str(tmp_path)) as output:
        found = printed("publisher", str(tmp_path))
        # None misses the first.
        assert [output.readline() for _ in range(PUBLISHED)] == [
            f"{1 + each}\n" for each in range(PUBLISHED)
        ]
    assert number <= found["descriptors"] <= 1.1 * number + BESIDE
    assert found["bytes"] <= number * 64 * 1024
    # 1 s and 2 ms on a machine that is not busy.
    assert found["seconds"] <= 5
    assert found["again"] <= 0.1
