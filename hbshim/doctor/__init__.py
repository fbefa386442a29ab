"""Finds what prevents heartbeats in this process or this environment, and reports remedies.

``hbshim doctor`` examines the environment from a shell. In a program, which may be patched and
hosted, call :func:`examine` or run ``python -m hbshim.doctor``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hbshim._lazy import lazy_names

if TYPE_CHECKING:
    from hbshim.doctor.examination import examine
    from hbshim.doctor.findings import Finding, Report

__all__ = ["Finding", "Report", "examine"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Finding": "hbshim.doctor.findings",
        "Report": "hbshim.doctor.findings",
        "examine": "hbshim.doctor.examination",
    },
)
