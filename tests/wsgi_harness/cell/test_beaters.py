"""What runs in the cells without hbshim, with a client that fails on the third call."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

SCRIPT = """
import json, sys, threading, time
import eventlet
if "patched" in sys.argv:
    eventlet.monkey_patch()
from wsgi_harness.cell.beaters import Beater, native_sleep

class Client:
    def __init__(self):
        self.threads, self.drained = [], 0
    def beat(self):
        self.threads.append(eventlet.patcher.original("threading").get_native_id())
        if len(self.threads) == 3:
            raise ConnectionError("Too many heartbeats missed")
    def drain(self):
        self.drained += 1

client, run_hub = Client(), "hub" in sys.argv
beater = Beater(client, 0.01)
beater.start(sys.argv[1])
deadline = time.monotonic() + (20 if sys.argv[2] == "beats" else 0.5)
while time.monotonic() < deadline and beater.report()["error"] is None:
    (eventlet.sleep if run_hub else native_sleep())(0.01)
main = eventlet.patcher.original("threading").get_native_id()
json.dump({
    "report": beater.report(),
    "own_thread": bool(client.threads) and main not in client.threads,
    "drained": client.drained,
}, sys.stdout)
"""


def run(method: str, expected: str, *world: str) -> Any:
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, method, expected, *world],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


@pytest.mark.parametrize("world", [(), ("patched",)], ids=["unpatched", "patched"])
@pytest.mark.parametrize("method", ["native", "native-drained"])
def test_a_native_thread_beats_without_a_hub_until_the_library_gives_up(
    method: str, world: tuple[str, ...]
) -> None:
    told = run(method, "beats", *world)

    assert told["own_thread"]
    assert len(told["report"]["calls"]) == 3
    assert told["report"]["error"]["type"] == "ConnectionError"
    assert told["drained"] == (2 if method == "native-drained" else 0)


@pytest.mark.parametrize(("method", "own_thread"), [("green", False), ("tpool", True)])
def test_a_green_beater_beats_while_its_hub_runs(method: str, own_thread: bool) -> None:
    told = run(method, "beats", "patched", "hub")

    assert len(told["report"]["calls"]) == 3
    assert told["own_thread"] is own_thread


@pytest.mark.parametrize("method", ["green", "tpool", "none"])
def test_a_green_beater_never_beats_while_its_hub_is_parked(method: str) -> None:
    told = run(method, "never", "patched")

    assert told["report"] == {"calls": [], "error": None}
