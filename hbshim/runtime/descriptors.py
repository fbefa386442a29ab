"""The limit of open descriptors of this process, and how many it has."""

from __future__ import annotations

import contextlib
import os
import resource


def raise_limit() -> None:
    """Raise the soft limit to the hard one, as far as the system allows it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS has a lower maximum than the hard limit that it reports.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def limit() -> int:
    """Return the soft limit."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def count() -> int:
    """Return how many are open; 0 where the system does not show it."""
    try:
        # One of them is that of the folder.
        return len(os.listdir("/proc/self/fd")) - 1
    except OSError:
        return 0
