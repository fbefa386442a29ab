"""Finds what would keep heartbeats from working here, and says what to do about it.

``hbshim doctor`` looks from a shell. Inside a program, which may be patched and
hosted, call :func:`examine` or run ``python -m hbshim.doctor``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hbshim.doctor.examination import examine
    from hbshim.doctor.findings import Finding, Report

__all__ = ["Finding", "Report", "examine"]

_HOMES = {
    "Finding": "hbshim.doctor.findings",
    "Report": "hbshim.doctor.findings",
    "examine": "hbshim.doctor.examination",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hbshim.doctor' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
