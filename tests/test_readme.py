"""The snippets of README and docs/usage.md run on the real broker and keep connections alive."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import holds_at_some_scale
from wsgi_harness.stack.broker import Broker

ROOT = Path(__file__).parent.parent
README, USAGE = (
    (ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/usage.md")
)
SNIPPETS = re.findall(r"```python\n(.*?)```", README + USAGE, re.DOTALL)

SURVIVE = """
import ctypes
from hbshim.heartbeat.service import current
if "connection" in globals():
    for _ in range(5 * T):
        ctypes.CDLL(None).usleep(999_999)
    (link,) = current().links()
    assert link.heartbeats_sent >= 6, link.heartbeats_sent
    if hasattr(connection, "channel"):
        connection.channel()
    else:
        connection.create_sender(None)
print("alive")
"""


def test_every_way_is_shown() -> None:
    for way in ("pip install", "hbshim.install(", "hbshim doctor", "make regression", "make test"):
        assert way in README
    for way in ("hbshim.keep_alive(", "hbshim.pika", "hbshim.kombu", "hbshim run -- "):
        assert way in USAGE
    assert len(SNIPPETS) == 10


@pytest.mark.parametrize("model", ["native", pytest.param("eventlet", marks=pytest.mark.extended)])
@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda s: re.sub(r"\W+", "-", s)[:40])
def test_a_snippet_keeps_its_connection_alive(broker: Broker, snippet: str, model: str) -> None:
    """For 5 T in which nothing of the program runs."""
    if "asyncio.run(" in snippet and model == "eventlet":
        pytest.skip("asyncio runs on an unpatched library")
    holds_at_some_scale(lambda t: check(broker, snippet, model, int(t)), 1, 4)


def check(broker: Broker, snippet: str, model: str, t: int) -> None:
    code = (
        snippet.replace("amqp://user:password@broker/", broker.amqp_url().removesuffix("%2F"))
        .replace(
            "hbshim://user:password@broker/",
            broker.amqp_url().removesuffix("%2F").replace("amqp", "hbshim", 1),
        )
        .replace(
            "hbpika://user:password@broker/",
            broker.amqp_url().removesuffix("%2F").replace("amqp", "hbpika", 1),
        )
        .replace("heartbeat=60", f"heartbeat={t}")
    )
    patch = "import eventlet; eventlet.monkey_patch()\n" if model == "eventlet" else ""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"T = {t}\n" + patch + code + SURVIVE],
        capture_output=True,
        text=True,
        timeout=180,
        env=dict(os.environ),
    )
    assert done.stdout == "alive\n", done.stderr
