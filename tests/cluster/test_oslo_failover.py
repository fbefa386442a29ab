"""One of the two tests of oslo.messaging's suite that need a cluster, for `make cluster`.

`make oslo` runs both, over `rabbit://` too, and with two versions.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.stress.oslo.failover import TESTS, run
from tests.stress.oslo.report import short
from tests.stress.oslo.run import Cell, Outcome, merged
from wsgi_harness.stack.cluster import Cluster

pytestmark = pytest.mark.alone


def cell(cluster_url: str = "") -> Cell:
    return Cell("hbrabbit", "18.3", "native", Path(sys.executable), cluster_url)


def test_oslos_own_failover_test(cluster: Cluster, tmp_path: Path) -> None:
    (outcome,) = run(cluster, cell(cluster.url()), tmp_path, TESTS[:1])
    assert outcome.failures() == [], outcome.texts
    assert {short(name): what for name, what in outcome.tests.items()} == {
        f"test_rabbitmq.{TESTS[0]}": "passed"
    }


def test_a_test_that_was_skipped_elsewhere_counts_once() -> None:
    skipped = Outcome(cell(), {"a": "passed", "b": "skipped"}, {"b": "no cluster"}, 1.0)
    failed = Outcome(cell(), {"b": "failed"}, {"b": "why"}, 2.0)
    (both,) = merged([skipped, failed])
    assert both.tests == {"a": "passed", "b": "failed"}
    assert both.texts == {"b": "why"}
    assert both.seconds == 3.0
    (one,) = merged([failed, skipped])
    assert one.tests == {"a": "passed", "b": "failed"}
