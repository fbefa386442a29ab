"""Fills the queue of a socket whose peer does not read."""

import socket
import time

#: Seconds for which the queue has stayed full. The kernel moves bytes to the peer's queue, and
#: lets that one grow, after the last byte that fitted.
SETTLED = 0.3


def fill(sock: socket.socket) -> None:
    """Send until nothing more is taken; leaves `sock` non-blocking."""
    sock.setblocking(False)
    full_since: float | None = None
    while True:
        tried = time.monotonic()
        try:
            sock.send(b"\x01" * 65536)  # no heartbeat: only the application may take it
            full_since = None
        except BlockingIOError:
            # By another attempt after that time: this thread may have been stopped meanwhile.
            if full_since is not None and tried >= full_since + SETTLED:
                return
            full_since = full_since or tried
