"""Peers of other authors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.amqp1 import peers
from tests.conftest import broker_is_required
from wsgi_harness.errors import HarnessError

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def proton() -> Path:
    """An interpreter that has python-qpid-proton."""
    if not peers.has_proton():
        if not broker_is_required():
            pytest.skip(f"{peers.PROTON} is not built here; HBSHIM_REQUIRE_BROKER=1 builds it")
        try:
            peers.install_proton()
        except HarnessError as error:
            pytest.skip(f"{peers.PROTON} cannot be built here: {error}")
    return peers.proton_python()


@pytest.fixture(scope="session")
def proton_codec(proton: Path) -> Iterator[peers.Program]:
    """Decodes and encodes again what it is sent."""
    with peers.running(proton, HERE / "proton_codec.py") as program:
        yield program
