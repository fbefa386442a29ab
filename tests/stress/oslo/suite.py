"""oslo.messaging's own functional suite, in the interpreter that has it, unchanged.

    python -m tests.stress.oslo.suite MODEL RESULTS [--part INDEX OF] [--only TEXT ...]

appends a line of JSON to the file RESULTS once all tests are loaded, for each test that it is
going to run, and as each ends; ``RPC_TRANSPORT_URL`` and ``NOTIFY_TRANSPORT_URL`` name the
driver. Two things about it are not as in upstream's gate, and neither is the logic of a test:

* A few tests look whether the URL begins with ``rabbit://``, and are skipped otherwise. To
  them alone, a URL whose scheme is hbshim's begins so too (:class:`GuardedUrl`).
* The suite patches everything with eventlet as it is imported, and its servers ask for the
  executor ``eventlet``. In the model ``native`` neither happens: the patching is left
  out, and the executor is ``threading``.

Loaded by :mod:`unittest` and not by stestr, so that parts run side by side without a
repository of results.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import unittest
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PACKAGE = "oslo_messaging.tests.functional"
RABBIT = "rabbit://"
#: Names the variable that describes a cluster.
CLUSTER = "HBSHIM_OSLO_CLUSTER"
_NODE_LIMIT = 150


class GuardedUrl(str):
    """A URL of a driver of hbshim; the check whether it is RabbitMQ's succeeds."""

    __slots__ = ()

    def startswith(self, *prefix: Any) -> bool:
        """See :meth:`str.startswith`."""
        return prefix[0] == RABBIT or super().startswith(*prefix)


def leave_native() -> None:
    """Have the suite run in native threads."""
    import eventlet

    eventlet.monkey_patch = lambda *_args, **_kwargs: None
    from oslo_messaging import server

    init = server.MessageHandlingServer.__init__

    def __init__(self: Any, transport: Any, dispatcher: Any, _executor: Any = None) -> None:  # noqa: N807
        init(self, transport, dispatcher, "threading")

    server.MessageHandlingServer.__init__ = __init__


def open_guards() -> None:
    """Enable the tests that are guarded by the URL's scheme."""
    from oslo_messaging.tests.functional import utils

    set_up = utils.SkipIfNoTransportURL.setUp

    def setUp(self: Any, *args: Any, **kwargs: Any) -> None:
        set_up(self, *args, **kwargs)
        self.rpc_url = GuardedUrl(self.rpc_url)
        self.notify_url = GuardedUrl(self.notify_url)

    utils.SkipIfNoTransportURL.setUp = setUp


def use_cluster(described: str) -> None:
    """Have the tests of failovers use a cluster that runs, in place of one of their own.

    Parameters:
        described: see :meth:`tests.stress.oslo.failover.Control.described`.
    """
    import urllib.request

    import fixtures
    from oslo_messaging._drivers import impl_rabbit
    from pifpaf.drivers import rabbitmq  # type: ignore[import-untyped]

    cluster = json.loads(described)

    class Nodes(fixtures.Fixture):
        """What the tests need of pifpaf's driver."""

        def __init__(self, **_arguments: Any) -> None:
            super().__init__()
            self.port = cluster["ports"]["n1"]
            names = {f"PIFPAF_RABBITMQ_NODENAME{number}": f"n{number}" for number in (1, 2, 3)}
            self.env = {"PIFPAF_URL": cluster["url"], **names}

        def get_port(self, name: str) -> int:
            port: int = cluster["ports"][name]
            return port

        def start_node(self, name: str) -> None:
            self._do("start", name)

        def stop_node(self, name: str) -> None:
            self._do("stop", name)

        def kill_node(self, name: str, **_arguments: Any) -> None:
            self._do("kill", name)

        def _do(self, what: str, name: str) -> None:
            request = urllib.request.Request(f"{cluster['control']}/{what}/{name}", method="POST")
            with urllib.request.urlopen(request, timeout=_NODE_LIMIT):
                pass

    rabbitmq.RabbitMQDriver = Nodes
    # Upstream does not run these tests any more: they set values that the options have refused
    # since they got minimums.
    options = {each.name: each for each in impl_rabbit.rabbit_opts}
    options["rabbit_retry_interval"].type.min = 0
    options["conn_pool_min_size"].default = 1
    # What the tests look for before they start anything.
    os.environ["TRANSPORT_DRIVER"] = "rabbit"


class Results(unittest.TestResult):
    """Writes each outcome down as it comes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def _write(self, test: unittest.TestCase, outcome: str, text: str = "") -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"test": test.id(), "outcome": outcome, "text": text}) + "\n")

    def addSuccess(self, test: Any) -> None:  # noqa: N802
        super().addSuccess(test)
        self._write(test, "passed")

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802
        super().addError(test, err)
        self._write(test, "failed", self.errors[-1][1])

    def addFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        super().addFailure(test, err)
        self._write(test, "failed", self.failures[-1][1])

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: N802
        super().addSkip(test, reason)
        self._write(test, "skipped", reason)


def tests_of(suite: Any) -> Iterator[Any]:
    """Every test in a suite of suites."""
    if isinstance(suite, unittest.TestSuite):
        for each in suite:
            yield from tests_of(each)
    else:
        yield suite


def load() -> list[Any]:
    """Every test, in an order that does not change."""
    import oslo_messaging

    top = Path(oslo_messaging.__file__).parent
    found = unittest.TestLoader().discover(
        str(top / "tests" / "functional"), top_level_dir=str(top.parent)
    )
    return sorted(tests_of(found), key=lambda test: str(test.id()))


def is_chosen(name: str, texts: Sequence[str]) -> bool:
    """Return whether a test's name ends with one of the texts, after a dot; or holds one.

    A text that begins with a class is the end of a name: `CallTestCase.test_timeout` is not
    `CallTestCase.test_timeout_with_concurrently_queues`.
    """
    return any(
        name == text or name.endswith(f".{text}") or ("." not in text and text in name)
        for text in texts
    )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", choices=("green", "native"))
    parser.add_argument("results", type=Path)
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), metavar=("INDEX", "OF"))
    parser.add_argument("--only", nargs="*", default=())
    given = parser.parse_args()
    if given.model == "native":
        leave_native()
    # First, or in the green model nothing is patched yet when this is imported.
    __import__("oslo_messaging.tests")
    open_guards()
    if described := os.environ.pop(CLUSTER, ""):
        use_cluster(described)
    chosen = [test for test in load() if not given.only or is_chosen(test.id(), given.only)]
    index, parts = given.part
    results = Results(given.results)
    with given.results.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"outcome": "loaded"}) + "\n")
        for test in chosen[index::parts]:
            file.write(json.dumps({"test": test.id(), "outcome": "planned", "text": ""}) + "\n")
    for test in chosen[index::parts]:
        test(results)
    sys.stdout.flush()
    # Not its threads' time to end: what is judged is written down.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
