"""Rounds over the hosts: which error a caller gets when none accepts."""

from __future__ import annotations

import time

import pytest

from hbshim.errors import ConnectError
from hbshim.messaging.connecting import SHORT, HostConnector
from hbshim.messaging.hosts import Host
from tests.waiting import wait_until

HOST = Host("one", 5672)


def cut_off_after(reasons: list[str]) -> HostConnector[str]:
    """A host that refuses for these reasons in turn, and then does not answer."""

    def open_one(_host: Host, until: float) -> str:
        if reasons:
            raise ConnectError(reasons.pop(0))
        wait_until(lambda: time.monotonic() >= until)
        raise ConnectError("no answer in time")

    return HostConnector([HOST], 0.0, open_one)


@pytest.mark.parametrize("attempts", [None, 1], ids=["one-connect", "a-connect-for-each"])
def test_a_round_without_time_does_not_hide_the_reason(attempts: int | None) -> None:
    connector = cut_off_after(["the policy refuses it"])
    deadline = time.monotonic() + SHORT / 2
    if attempts is not None:
        with pytest.raises(ConnectError, match="the policy refuses it"):
            connector.connect(deadline, attempts)
    with pytest.raises(ConnectError, match="the policy refuses it"):
        connector.connect(deadline, attempts)
    assert connector.refused == "the policy refuses it"


def test_a_host_that_stops_answering_is_the_reason_once_it_had_time() -> None:
    connector = cut_off_after(["the policy refuses it"])
    with pytest.raises(ConnectError, match="no answer in time"):
        connector.connect(time.monotonic() + 4 * SHORT)


def test_a_first_round_without_time_has_a_reason() -> None:
    connector = cut_off_after([])
    with pytest.raises(ConnectError, match="no answer in time"):
        connector.connect(time.monotonic() + SHORT / 2)
