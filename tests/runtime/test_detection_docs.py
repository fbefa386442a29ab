"""docs/detection.md shows the rule and the cautions as the code has them."""

from __future__ import annotations

from pathlib import Path

from hbshim.runtime.choice import CAUTIONS, RULE
from hbshim.runtime.host import CELERY_POOLS, GUNICORN_WORKERS

TEXT = (Path(__file__).parent.parent.parent / "docs" / "detection.md").read_text(encoding="utf-8")


def between(name: str) -> list[str]:
    """The lines of the block that the page marks as checked against the code."""
    start, end = f"<!-- {name}: checked by {Path(__file__).name} -->", f"<!-- end {name} -->"
    assert TEXT.count(start) == TEXT.count(end) == 1
    return TEXT.partition(start)[2].partition(end)[0].strip().splitlines()


def column(values: bool | frozenset[str] | None) -> str:
    if values is None:
        return "any"
    if isinstance(values, bool):
        return "yes" if values else "no"
    return " or ".join(sorted(values))


def test_the_rule() -> None:
    rows = [
        f"| {column(row.patched_by)} | {column(row.hub)} | {column(row.worker_late)} "
        f"| {column(row.tpool)} | `{row.worker}` | {row.reason} |"
        for row in RULE
    ]
    assert between("rule")[2:] == rows


def test_the_cautions() -> None:
    rows = [
        f"| {', '.join(f'`{worker}`' for worker in sorted(caution.workers))} | {caution.text} |"
        for caution in CAUTIONS
    ]
    assert between("cautions")[2:] == rows


def test_the_hosts() -> None:
    hubs = {"outside": "parked", "unknown": "unknown"}
    rows = [
        f"| {host} `{mode}` | {hubs.get(hub, 'runs')} |"
        for host, modes in (("gunicorn", GUNICORN_WORKERS), ("Celery", CELERY_POOLS))
        for mode, hub in modes.values()
    ]
    assert set(rows) <= set(between("hosts")[2:])
