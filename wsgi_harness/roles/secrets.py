"""Secrets of a scenario that a text must not have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

_SECRET = re.compile(r"^\s*(?:- )?(\w*(?:password|cookie_token))\s*:\s*(.+?)\s*$", re.MULTILINE)


def secrets_in(text: str, scenario: Path) -> list[str]:
    """Return the names of variables of a scenario whose values a text has.

    Parameters:
        scenario: its directory, with ``inventory.yml``.
    """
    inventory = (scenario / "inventory.yml").read_text(encoding="utf-8")
    found = {
        name for name, value in _SECRET.findall(inventory) for form in _forms(value) if form in text
    }
    return sorted(found)


def _forms(written: str) -> Iterator[str]:
    """Yield how a value may be shown: as it is, quoted for JSON, and in a URL."""
    value = json.loads(written) if written.startswith('"') else written.strip("'")
    yield value
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    yield quote(value, safe="")
