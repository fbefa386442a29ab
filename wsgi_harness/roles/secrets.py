"""Secrets of a scenario, which neither a text nor the arguments of a process may have."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

_SECRET = re.compile(r"^\s*(?:- )?(\w*(?:password|cookie_token))\s*:\s*(.+?)\s*$", re.MULTILINE)
_PAUSE = 0.02


def secrets_in(text: str, scenario: Path) -> list[str]:
    """Return the names of variables of a scenario whose values a text has.

    Parameters:
        scenario: its directory, with ``inventory.yml``.
    """
    return sorted({name for name, form in _forms_of(scenario) if form in text})


class ArgumentWatch:
    """Reads the arguments of all processes of this machine, those of containers included.

    Parameters:
        scenario: whose secrets are searched for.

    Attributes:
        found: names of variables, with the command that had the value.
    """

    def __init__(self, scenario: Path) -> None:
        self.found: dict[str, str] = {}
        self._forms = [(name, form.encode()) for name, form in _forms_of(scenario)]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="arguments", daemon=True)

    def __enter__(self) -> ArgumentWatch:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        # Each process is read twice: between fork and exec it has its parent's arguments.
        once: set[str] = set()
        twice: set[str] = set()
        while not self._ended.wait(_PAUSE):
            there = {path.name for path in Path("/proc").iterdir() if path.name.isdecimal()}
            for pid in there - twice:
                self._look(pid)
            once, twice = there, there & once

    def _look(self, pid: str) -> None:
        try:
            arguments = Path("/proc", pid, "cmdline").read_bytes()
        except OSError:
            return
        for name, form in self._forms:
            if form in arguments:
                command = arguments.split(b"\0")[0].decode(errors="replace")
                self.found.setdefault(name, command)


def _forms_of(scenario: Path) -> Iterator[tuple[str, str]]:
    """Yield names, and how the value of each may be shown: as it is, quoted, and in a URL."""
    inventory = (scenario / "inventory.yml").read_text(encoding="utf-8")
    for name, written in _SECRET.findall(inventory):
        value = json.loads(written) if written.startswith('"') else written.strip("'")
        for form in (
            value,
            json.dumps(value)[1:-1],
            json.dumps(value, ensure_ascii=False)[1:-1],
            quote(value, safe=""),
        ):
            yield name, form
