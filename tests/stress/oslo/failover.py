"""The two tests of oslo.messaging's suite that need three brokers, on hbshim's cluster.

They start nodes of their own with pifpaf, where RabbitMQ is installed. Here the nodes run in
containers, which the suite's process reaches through :class:`Control`, and
:func:`tests.stress.oslo.suite.use_cluster` puts in the place of pifpaf's driver. The logic of the
tests is untouched. They look into the stock driver's connections, so they are for ``rabbit://``
and ``hbrabbit://``; ``tests/cluster`` has tests of the other schemes.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
from collections.abc import Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.stress.oslo import run as suite
from tests.stress.oslo.run import STOCK_TESTS, Cell, Outcome
from wsgi_harness.errors import HarnessError
from wsgi_harness.stack.cluster import NODES, Cluster

TESTS = (
    f"{STOCK_TESTS}test_failover_scenario",
    f"{STOCK_TESTS}test_failover_scenario_enable_cancel_on_failover",
)

# The tests leave one node of three. A node in a minority stops by itself, unless it is told not to.
_HANDLE = "application:set_env(rabbit, cluster_partition_handling, {})."
_LIMIT = 300.0


class Control:
    """Lets a process on this machine start, stop and kill nodes; a context manager."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._running = set(NODES)
        self._token = secrets.token_urlsafe(16)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Control:
        for name in NODES:
            self._stay_alone(name)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(HarnessError):
            for name in self._running:
                self._cluster.ctl(name, "eval", _HANDLE.format("pause_minority"))
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def described(self, scheme: str) -> str:
        """Return what :func:`tests.stress.oslo.suite.use_cluster` needs; it holds the password."""
        ports = {name: self._cluster.node(name).amqp_port for name in NODES}
        return json.dumps(
            {
                "control": f"http://127.0.0.1:{self._server.server_port}/{self._token}",
                "url": self._cluster.url(scheme),
                "ports": ports,
            }
        )

    def start_all(self) -> None:
        """Have every node run, for the next test."""
        for name in NODES:
            self.do("start", name)

    def do(self, what: str, name: str) -> None:
        """Do something to a node; what is so already is left.

        Parameters:
            what: `start`, `stop` or `kill`.

        Raises:
            HarnessError: it cannot be done.
        """
        if what == "start":
            if name not in self._running:
                self._cluster.start(name, wait=False)
                self._running.add(name)
                self._cluster.await_formed(tuple(sorted(self._running)))
                self._stay_alone(name)
        elif name in self._running:
            {"stop": self._cluster.stop, "kill": self._cluster.kill}[what](name)
            self._running.discard(name)

    def _stay_alone(self, name: str) -> None:
        self._cluster.ctl(name, "eval", _HANDLE.format("ignore"))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        control = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                token, _, rest = self.path.removeprefix("/").partition("/")
                what, _, name = rest.partition("/")
                status, text = 403, "no"
                if secrets.compare_digest(token, control._token):
                    try:
                        control.do(what, name)
                        status, text = 200, "done"
                    except (HarnessError, KeyError) as error:
                        status, text = 500, str(error)
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: Any) -> None:
                """Write nothing: the path holds the token."""

        return Handler


def run(
    cluster: Cluster, cell: Cell, directory: Path, tests: Sequence[str] = TESTS
) -> list[Outcome]:
    """Run the tests, each on a cluster of three nodes; leave one of three.

    Parameters:
        cell: its scheme is one of :data:`tests.stress.oslo.run.STOCK_DRIVERS`; the broker in it is
            not used.
    """
    outcomes = []
    with Control(cluster) as control:
        here = replace(cell, cluster=control.described(cell.scheme))
        for number, test in enumerate(tests):
            found = suite.run([here], directory / str(number), only=[test], parts=1, limit=_LIMIT)
            control.start_all()
            outcomes += found
    return [replace(each, cell=cell) for each in outcomes]
