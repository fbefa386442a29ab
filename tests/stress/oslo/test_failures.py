"""The two failures of oslo.messaging's own heartbeats, once; `make oslo` brings them about five
times, with oslo.messaging 17.3 as well, whose service hangs after the restart."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from tests.stress.oslo import failures
from tests.stress.oslo.failures import Fate, Subject
from tests.stress.oslo.schemes import STOCK, ours
from wsgi_harness.stack.broker import Broker

NEWEST = {"18.3": Path(sys.executable)}


def test_a_hub_that_stands_still_for_4_t(broker: Broker, tmp_path: Path) -> None:
    """Stock loses its connections: the control."""
    fates = failures.blocked(failures.blocked_subjects(ours(), NEWEST), broker, tmp_path)
    assert [fate.subject.scheme for fate in fates if not fate.survived] == [STOCK], fates


def test_40_green_callers_through_a_broker_restart(
    own_broker: Broker, rabbitmqctl: Callable[..., None], tmp_path: Path
) -> None:
    """With the option on, which hung 17.3."""
    subjects = [Subject(scheme, "18.3", Path(sys.executable), "true") for scheme in ours()]
    fates = failures.restart(subjects, own_broker, rabbitmqctl, tmp_path, outage=3.0)
    assert all(fate.survived for fate in fates), fates


def test_a_control_that_survives_is_a_complaint() -> None:
    stock = Subject(STOCK, "17.3", Path(sys.executable), "true", control=True)
    mine = Subject("hbrabbit", "17.3", Path(sys.executable), "true")
    hung, well = Fate(stock, False, "hangs"), Fate(stock, True, "all answered")
    assert failures.complaints([Fate(mine, True, "all answered"), hung]) == []
    assert failures.complaints([Fate(mine, True, "all answered"), well])
    assert failures.complaints([Fate(mine, False, "hangs"), hung])
