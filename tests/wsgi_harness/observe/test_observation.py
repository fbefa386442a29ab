"""What is derived from the raw observations: lateness, losses, when the client was last heard."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.wsgi_harness.cell_stories import BEGAN, SILENCE, alive, closed
from wsgi_harness.observe.observation import BrokerView, Life, Messages, worst_lateness

WINDOW = (100.0, 200.0)


@pytest.mark.parametrize(
    ("taken", "awaited", "worst"),
    [
        pytest.param([(110.0, 110.5), (120.0, 122.0)], 210.0, 2.0, id="the latest run counts"),
        pytest.param([(90.0, 99.0), (201.0, 260.0)], 261.0, 0.0, id="others do not count"),
        pytest.param([(110.0, 110.1)], 120.0, 80.0, id="one that never came"),
        pytest.param([(110.0, 230.0)], 240.0, 90.0, id="one that came after the silence"),
        pytest.param([], 99.5, 100.0, id="none came at all"),
        pytest.param([(99.0, 130.0)], 230.0, 30.0, id="one that was due before the silence"),
    ],
)
def test_lateness_is_counted_within_the_silence(
    taken: list[tuple[float, float]], awaited: float, worst: float
) -> None:
    assert worst_lateness(tuple(taken), awaited, WINDOW) == pytest.approx(worst)


def test_lost_messages_include_the_refused_and_swallowed_ones_do_not() -> None:
    messages = Messages(asked=20, accepted=5, arrived=2)

    assert messages.lost == 18
    assert messages.swallowed == 3


def test_a_request_without_status_200_failed() -> None:
    assert alive("none-kombu").failed_requests == 0
    assert closed("none-kombu").failed_requests == 1


def test_the_client_was_last_heard_at_its_last_heartbeat_before_the_second_request() -> None:
    assert alive("x").client_last_heard == BEGAN + 24
    assert closed("x").client_last_heard == BEGAN
    late = replace(alive("x").wire, client_heartbeats=(BEGAN + 2, SILENCE[1] + 1))
    assert replace(alive("x"), wire=late).client_last_heard == BEGAN + 2


def test_surviving_takes_both_accounts_of_the_broker() -> None:
    seen = alive("x")
    gone = replace(seen, broker=replace(seen.broker, closed=SILENCE[1] - 1))
    later = replace(seen, broker=replace(seen.broker, closed=SILENCE[1] + 1))

    assert seen.survived
    assert later.survived
    assert not gone.survived
    assert not closed("x").survived


def test_a_cell_with_two_brokers_has_what_was_worst_at_either() -> None:
    kept = BrokerView(opened=2, heartbeat=4, connections=1, lives=(Life(2),))
    lost = BrokerView(
        opened=1, closed=9, reason="missed", heartbeat=3, connections=2, lives=(Life(1, 9), Life(5))
    )

    for joined in (kept.joined(lost), lost.joined(kept)):
        assert (joined.opened, joined.closed, joined.reason) == (1, 9, "missed")
        assert (joined.heartbeat, joined.connections) == (3, 3)
        assert sorted(life.opened for life in joined.lives) == [1, 2, 5]
    assert kept.joined(BrokerView()).opened == 2
    assert (kept.joined(kept).closed, kept.joined(kept).reason) == (None, "")
