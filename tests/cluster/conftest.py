"""A cluster of three brokers, on RabbitMQ 4."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import SUITE_4, broker_is_required
from wsgi_harness.engine.commands import silent
from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import ensure_broker_image, has_broker_image
from wsgi_harness.paths import set_up_lock
from wsgi_harness.stack.cluster import Cluster
from wsgi_harness.stack.stack import project_name

#: T: that of an ordinary deployment is 60 s. With a short one, heartbeats would find what
#: the drivers must find by other means.
HEARTBEAT = 20


@pytest.fixture(scope="session")
def cluster(engine: Engine) -> Iterator[Cluster]:
    """Three nodes that have formed a cluster."""
    if not broker_is_required() and not has_broker_image(engine, SUITE_4):
        pytest.skip("RabbitMQ 4 is not built here; set HBSHIM_REQUIRE_BROKER=1 to build it")
    with set_up_lock(silent):
        image = ensure_broker_image(engine, SUITE_4)
    with Cluster(project_name("cluster"), engine, image, heartbeat=HEARTBEAT) as started:
        yield started
