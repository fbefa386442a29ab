"""A cluster of three brokers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import Images
from wsgi_harness.stack.cluster import Cluster
from wsgi_harness.stack.stack import project_name

#: T: that of an ordinary deployment is 60 s. With a short one, heartbeats would find what
#: the drivers must find by other means.
HEARTBEAT = 20


@pytest.fixture(scope="session")
def cluster(engine: Engine, images: Images) -> Iterator[Cluster]:
    """Three nodes that have formed a cluster."""
    name = project_name("cluster")
    with Cluster(name, engine, images.rabbitmq, heartbeat=HEARTBEAT) as started:
        yield started
