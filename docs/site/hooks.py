"""What the site has beside the pages here: the API reference, the list of changes, line breaks."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]

#: Page of the reference: its title and its modules.
REFERENCE = {
    "hbshim": ("hbshim", ["hbshim"]),
    "stand-ins": ("Stand-ins", ["hbshim.kombu", "hbshim.pika"]),
    "observe": ("hbshim.observe", ["hbshim.observe"]),
    "doctor": ("hbshim.doctor", ["hbshim.doctor"]),
    "messaging": ("hbshim.messaging", ["hbshim.messaging"]),
    "aio": ("hbshim.messaging.aio", ["hbshim.messaging.aio"]),
    "errors": ("hbshim.errors", ["hbshim.errors"]),
    "metrics": ("Metrics", ["hbshim.prometheus", "hbshim.otel"]),
    "polling": ("Select stripping", ["hbshim.runtime.polling"]),
}
_CELL = re.compile(r"<td[^>]*>.*?</td>", re.DOTALL)
_UNIT = re.compile(r"(?<=\d) (?=(?:ms|µs|s|kB|KiB|MiB|T)\b|%)|(?<=[≤≥]) (?=\d)")
#: Modules that define all of their names themselves; with their own docstring.
_WHOLE = {"hbshim.errors", "hbshim.prometheus", "hbshim.otel", "hbshim.runtime.polling"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {f"reference/{name}.md": reference(*page) for name, page in REFERENCE.items()}
    pages["changelog.md"] = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Break no line of a table's cells before a unit."""
    return _CELL.sub(lambda cell: _UNIT.sub("&nbsp;", cell[0]), html)


def reference(title: str, modules: list[str]) -> str:
    """Return a page of the reference, as Markdown for mkdocstrings."""
    lines = [f"# {title}", ""]
    for module in modules:
        for name in _public(module):
            lines += [f"::: {name}"]
            if name == title:
                lines += ["    options:", "      show_root_heading: false"]
            lines += [""]
    return "\n".join(lines)


def _public(module: str) -> list[str]:
    if module in _WHOLE:
        return [module]
    names = importlib.import_module(module).__all__
    return [f"{module}.{name}" for name in names if not name.startswith("_")]
