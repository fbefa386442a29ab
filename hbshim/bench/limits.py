"""The limit of open descriptors."""

from __future__ import annotations

import resource

#: Descriptors a process needs besides its connections.
SPARE = 200


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
