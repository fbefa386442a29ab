"""Waits for a peer that starts at the same time; runs in the containers beside the cells."""

from __future__ import annotations

import socket
import time

#: Seconds; the harness waits no longer for what uses this.
_LIMIT = 90.0
_PAUSE = 0.2


def wait_for(host: str, port: int) -> None:
    """Return when a port accepts connections.

    A container's name cannot be resolved before it runs, which not every client survives.

    Raises:
        OSError: it does not in time.
    """
    deadline = time.monotonic() + _LIMIT
    while True:
        try:
            socket.create_connection((host, port), 5).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)
        else:
            return
