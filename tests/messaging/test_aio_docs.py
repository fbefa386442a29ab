"""The page about asyncio is run from its first snippet to its last, on the real broker."""

from __future__ import annotations

import ast
import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from tests.concurrency import needs_os_threads
from wsgi_harness.stack.broker import Broker

pytestmark = needs_os_threads

PAGE = Path(__file__).parents[2] / "docs" / "asyncio.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)

AGENT = """
class Agent:
    async def install(self, request, package):
        await request.progress(f"fetching {package}")
        return "installed"
"""


def test_the_page_does_what_it_says(
    broker: Broker, vhost: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = broker.amqp_url(vhost=vhost).replace("amqp://", "hbpika://")
    source = AGENT + "\n".join(SNIPPETS)
    assert "hbpika://user:password@host1,user:password@host2/" in source
    source = source.replace("hbpika://user:password@host1,user:password@host2/", url)
    code = compile(source, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names: dict[str, Any] = {}
    asyncio.run(eval(code, names))
    said = capsys.readouterr().out.splitlines()
    assert {"booting", "fetching web", "installed", "machine.created {'name': 'small'}"} <= set(
        said
    )
    assert len(names["sums"]) == 100


def test_the_page_has_all_its_snippets() -> None:
    assert len(SNIPPETS) == 5
