"""The limit of open descriptors."""

from __future__ import annotations

from hbshim.runtime import descriptors

#: Descriptors a process needs besides its connections.
SPARE = 200


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one; returns it."""
    descriptors.raise_limit()
    return descriptors.limit()
