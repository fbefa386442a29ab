"""The list of drivers under contract names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

from tests.messaging.contract.laboratory import LABORATORIES


def test_tests_that_do_not_hold_for_a_driver_exist() -> None:
    directory = Path(__file__).parent
    sources = "".join(path.read_text(encoding="utf-8") for path in directory.glob("test_*.py"))
    tests = set(re.findall(r"^def (test_\w+)", sources, re.MULTILINE))
    assert len(tests) > 50
    for scheme, entry in LABORATORIES.items():
        assert set(entry.other_guarantees) <= tests, scheme
