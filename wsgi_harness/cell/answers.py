"""Answers the CALLs of the cells with oslo.messaging; runs in its own container.

    python -m wsgi_harness.cell.answers HOST:PORT SCHEME [SCHEME ...]

It serves one topic for each scheme, with native threads and the broker's account of AMQP_URL,
and prints a line when it is ready.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from wsgi_harness.cell.reaching import wait_for
from wsgi_harness.cell.transport import configured, topic_of, url_of

#: Printed when every topic is served.
SERVING = "serving"
#: T of this side, in seconds: long, because it is not measured.
_HEARTBEAT = 60


class Echo:
    """The endpoint."""

    def echo(self, _context: Any, value: Any) -> Any:
        """Return the argument."""
        return value


def main() -> None:
    """Serve one topic for each scheme of the command line, until the process is ended."""
    import oslo_messaging

    host, _, port = sys.argv[1].rpartition(":")
    wait_for(host, int(port))
    conf = configured({"heartbeat_timeout_threshold": _HEARTBEAT})
    for scheme in sys.argv[2:]:
        url = url_of(scheme, os.environ["AMQP_URL"], (host, int(port)))
        oslo_messaging.get_rpc_server(
            oslo_messaging.get_rpc_transport(conf, url),
            oslo_messaging.Target(topic=topic_of(scheme), server="answers"),
            [Echo()],
            executor="threading",
        ).start()
    sys.stdout.write(f"{SERVING}\n")
    sys.stdout.flush()
    # The container's end is the program's.
    threading.Event().wait()


if __name__ == "__main__":
    main()
