"""An interpreter with qpid-proton, for the test router and for clients."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import broker_is_required
from wsgi_harness.errors import HarnessError
from wsgi_harness.router.environment import PROTON, has_proton, install_proton, proton_python


def require_proton() -> Path:
    """Return the interpreter; skip the test if there is none, and none is required."""
    if not has_proton():
        if not broker_is_required():
            pytest.skip(f"{PROTON} is not installed here; HBSHIM_REQUIRE_BROKER=1 installs it")
        try:
            install_proton()
        except HarnessError as error:
            pytest.skip(f"{PROTON} cannot be installed here: {error}")
    return proton_python()
