"""Peers of other authors."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.amqp1 import peers
from tests.amqp1.peers import Peer, Program
from tests.conftest import broker_is_required
from wsgi_harness.errors import HarnessError
from wsgi_harness.router.environment import PROTON, has_proton, install_proton, proton_python


def _installed(name: str, *, has: Callable[[], bool], install: Callable[[], None]) -> None:
    """Install a peer, or skip the test."""
    if has():
        return
    if not broker_is_required():
        pytest.skip(f"{name} is not installed here; HBSHIM_REQUIRE_BROKER=1 installs it")
    try:
        install()
    except HarnessError as error:
        pytest.skip(f"{name} cannot be installed here: {error}")


@pytest.fixture(scope="session")
def proton() -> Peer:
    """qpid-proton, with Python."""
    _installed(PROTON, has=has_proton, install=install_proton)
    return Peer("proton", (str(proton_python()),), ".py")


@pytest.fixture(scope="session")
def rhea() -> Peer:
    """rhea, with Node.js."""
    _installed(peers.RHEA, has=peers.has_rhea, install=peers.install_rhea)
    return Peer("rhea", ("env", f"NODE_PATH={peers.rhea_modules()}", "node"), ".js")


@pytest.fixture(scope="session", params=["proton", "rhea"])
def peer(request: pytest.FixtureRequest) -> Peer:
    """Each of them."""
    found: Peer = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def proton_codec(proton: Peer) -> Iterator[Program]:
    """Decodes and encodes again what it is sent."""
    with proton.running("codec") as program:
        yield program


@pytest.fixture(scope="session")
def rhea_codec(rhea: Peer) -> Iterator[Program]:
    """Decodes and encodes again what it is sent."""
    with rhea.running("codec") as program:
        yield program
