"""The latest keys: what bounds them, with a clock that the test moves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hbshim.messaging.recent import Recent


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_key_is_remembered_for_its_lifetime_from_the_last_time_it_was_added() -> None:
    clock = Clock()
    recent: Recent[str] = Recent(10, 5.0, clock)
    recent.add("a")
    clock.now = 4.0
    recent.add("b")
    recent.add("a")
    clock.now = 8.9
    assert "a" in recent
    assert "b" in recent
    clock.now = 9.0
    assert "a" not in recent
    recent.discard("a")
    recent.add("c")
    clock.now = 20.0
    recent.add("d")
    assert len(recent) == 1


@given(st.lists(st.integers(0, 20)), st.integers(1, 5))
def test_the_latest_are_kept_and_no_more(keys: list[int], most: int) -> None:
    recent: Recent[int] = Recent(most)
    for key in keys:
        recent.add(key)
    latest = list(dict.fromkeys(reversed(keys)))[:most]
    assert {key for key in range(21) if key in recent} == set(latest)
    assert len(recent) == len(latest)
