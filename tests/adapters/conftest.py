"""Every test here leaves hbshim as it found it."""

import pytest

import hbshim
from hbshim.heartbeat import service


@pytest.fixture(autouse=True)
def uninstalled():
    yield
    hbshim.uninstall()


@pytest.fixture
def events():
    """Kinds of the events recorded since the test began."""
    metrics = service.current().metrics
    metrics.take_events()
    return lambda: [event.kind for event in metrics.take_events()]
