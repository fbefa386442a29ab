"""A broker that is killed and started again is described anew, and answers."""

from __future__ import annotations

import pytest
import requests

from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import Images
from wsgi_harness.stack.stack import BROKER, Stack, project_name


def test_a_killed_broker_is_gone_until_it_is_started(engine: Engine, images: Images) -> None:
    with Stack(project_name("kill"), heartbeat=60, prepared=(engine, images)) as stack:
        before = stack.broker
        stack.kill(BROKER)
        with pytest.raises(requests.RequestException):
            before.management.overview()
        stack.start(BROKER)
        assert stack.broker.management.overview()["node"]
        assert stack.broker.password == before.password
