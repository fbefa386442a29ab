"""What runs in the cells without hbshim, with a client that fails on the third call."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from wsgi_harness.cell.green import GREEN

SCRIPT = """
import json, sys
from wsgi_harness.cell.green import GREEN
green = GREEN[sys.argv[1]]()
if "patched" in sys.argv:
    green.monkey_patch()
import time
from hbshim.runtime.unpatched import get_native_id
from wsgi_harness.cell.keepalive import Keepalive

class Client:
    def __init__(self):
        self.threads, self.drained = [], 0
    def send_heartbeat(self):
        self.threads.append(get_native_id())
        if len(self.threads) == 3:
            raise ConnectionError("Too many heartbeats missed")
    def drain(self):
        self.drained += 1

client, run_hub = Client(), "hub" in sys.argv
keepalive = Keepalive(client, 0.01, green)
keepalive.start(sys.argv[2])
deadline = time.monotonic() + (20 if sys.argv[3] == "sends" else 0.5)
while time.monotonic() < deadline and keepalive.report()["error"] is None:
    (green.sleep if run_hub else green.native_sleep())(0.01)
main = get_native_id()
json.dump({
    "report": keepalive.report(),
    "own_thread": bool(client.threads) and main not in client.threads,
    "drained": client.drained,
}, sys.stdout)
"""


def run(library: str, method: str, expected: str, *deployment: str) -> Any:
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, library, method, expected, *deployment],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


@pytest.mark.parametrize("deployment", [(), ("patched",)], ids=["unpatched", "patched"])
@pytest.mark.parametrize("method", ["native", "native-drained"])
@pytest.mark.parametrize("library", GREEN)
def test_a_native_thread_sends_without_a_hub_until_the_library_gives_up(
    library: str, method: str, deployment: tuple[str, ...]
) -> None:
    answer = run(library, method, "sends", *deployment)

    assert answer["own_thread"]
    assert len(answer["report"]["calls"]) == 3
    assert answer["report"]["error"]["type"] == "ConnectionError"
    assert answer["drained"] == (2 if method == "native-drained" else 0)


@pytest.mark.parametrize(("method", "own_thread"), [("green", False), ("tpool", True)])
@pytest.mark.parametrize("library", GREEN)
def test_a_green_thread_sends_while_its_hub_runs(
    library: str, method: str, own_thread: bool
) -> None:
    answer = run(library, method, "sends", "patched", "hub")

    assert len(answer["report"]["calls"]) == 3
    assert answer["own_thread"] is own_thread


@pytest.mark.parametrize("method", ["green", "tpool", "none"])
@pytest.mark.parametrize("library", GREEN)
def test_a_green_thread_sends_nothing_while_its_hub_is_parked(library: str, method: str) -> None:
    answer = run(library, method, "never", "patched")

    assert answer["report"] == {"calls": [], "error": None}
