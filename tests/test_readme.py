"""The README's snippets run, against the real broker, and keep their connection alive."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import holds_at_some_scale

README = Path(__file__).parent.parent / "README.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)

SURVIVE = """
import ctypes
from hbshim.heartbeat.service import current
if "connection" in globals():
    for _ in range(5 * T):
        ctypes.CDLL(None).usleep(999_999)
    (link,) = current().links()
    assert link.beats >= 6, link.beats
    connection.channel()
print("alive")
"""


def test_all_three_ways_are_shown():
    text = README.read_text(encoding="utf-8")
    for way in (
        "hbshim.install(",
        "hbshim.keep_alive(",
        "adapters.pika.heartbeat",
        "hbshim run -- ",
        "make regression",
        "python -m wsgi_harness --scenario",
    ):
        assert way in text
    assert len(SNIPPETS) == 7


@pytest.mark.parametrize("world", ["native", "eventlet"])
@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda s: re.sub(r"\W+", "-", s)[:40])
def test_a_snippet_keeps_its_connection_alive(broker, snippet, world):
    """For 5 T in which nothing of the program runs."""
    holds_at_some_scale(lambda t: check(broker, snippet, world, int(t)), 1, 4)


def check(broker, snippet, world, t):
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
    patch = "import eventlet; eventlet.monkey_patch()\n" if world == "eventlet" else ""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"T = {t}\n" + patch + code + SURVIVE],
        capture_output=True,
        text=True,
        timeout=180,
        env=dict(os.environ),
    )
    assert done.stdout == "alive\n", done.stderr
