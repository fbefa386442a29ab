"""Every test here leaves hbshim as it found it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import hbshim
from hbshim.heartbeat import service


@pytest.fixture(autouse=True)
def uninstalled() -> Iterator[None]:
    yield
    hbshim.uninstall()


@pytest.fixture
def events() -> Callable[..., Any]:
    """Kinds of the events recorded since the test began."""
    metrics = service.current().metrics
    metrics.take_events()
    return lambda: [event.kind for event in metrics.take_events()]
