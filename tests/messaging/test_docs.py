"""The page about messaging is run from its first snippet to its last, on the real broker."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from wsgi_harness.stack.broker import Broker

PAGE = Path(__file__).parents[2] / "docs" / "messaging.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)

AGENT = """
class Agent:
    def install(self, request, package):
        request.progress(f"fetching {package}")
        return "installed"
"""


@pytest.mark.parametrize("scheme", ["hbkombu", "hbpika"])
def test_the_page_does_what_it_says(
    broker: Broker, vhost: str, scheme: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {}
    url = broker.amqp_url(vhost=vhost).replace("amqp://", f"{scheme}://")
    source = AGENT + "\n".join(SNIPPETS)
    assert "hbpika://user:password@host1,user:password@host2/" in source
    source = source.replace("hbpika://user:password@host1,user:password@host2/", url)
    try:
        exec(compile(source, str(PAGE), "exec"), names)
    finally:
        for name in ("server", "auditors", "later"):
            if name in names:
                names[name].stop(10)
        if "driver" in names:
            names["driver"].close()
    said = capsys.readouterr().out.splitlines()
    assert {"booting", "fetching web", "installed"} <= set(said)


def test_the_page_has_all_its_snippets() -> None:
    assert len(SNIPPETS) == 5
