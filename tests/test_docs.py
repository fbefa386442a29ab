"""What the pages refer to is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from hbshim import errors

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", heading).lower() for heading in headings)
    return {each.replace(" ", "-") for each in words}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_every_error_that_is_explained_exists() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `(\w+Error)", text, re.MULTILINE)) - {"ConnectionResetError"}
    assert named
    assert all(issubclass(getattr(errors, name), errors.HbshimError) for name in named)


def literals(folder: Path) -> str:
    """All texts of the modules of a folder; what a text is formatted with splits it."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in folder.rglob("*.py"))
    nodes = (node for tree in trees for node in ast.walk(tree))
    values = (node.value for node in nodes if isinstance(node, ast.Constant))
    return "\0".join(value for value in values if isinstance(value, str))


def test_every_text_of_hbzmq_that_is_explained_exists() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    section = page.partition("<!-- hbzmq texts:")[2].partition("<!-- end of hbzmq texts -->")[0]
    texts = re.findall(r"^\| `(.+?)` \|", section, re.MULTILINE)
    there = literals(ROOT / "hbshim" / "messaging")
    pieces = [piece for text in texts for piece in re.sub(r"^\w+Error: ", "", text).split("...")]
    assert pieces
    assert [piece for piece in pieces if piece not in there] == []
